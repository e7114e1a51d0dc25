// What the views share: elements, numbers as people read them, a line of one point a request, a strategy picker.

const UNKNOWN = '–';
const KNOB_STEP = 0.01;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function digits(value) {
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

function plural(n, noun, nouns = `${noun}s`) {
  return `${n.toLocaleString('en')} ${n === 1 ? noun : nouns}`;
}

const units = {
  share: value => (value == null ? UNKNOWN : `${(100 * value).toFixed(value > 0 && value < 0.01 ? 1 : 0)} %`),
  seconds: value => (value == null ? UNKNOWN : value >= 1 ? `${digits(value)} s` : `${digits(1000 * value)} ms`),
  rate: value => (value == null ? UNKNOWN : `${value >= 10 ? Math.round(value) : digits(value)} tokens/s`),
  nats: value => (value == null ? UNKNOWN : Math.abs(value) < 1e-6 ? '0' : Number(value.toPrecision(2)).toString()),
  size: value => {
    if (value == null) return UNKNOWN;
    const scale = ['B', 'kB', 'MB', 'GB', 'TB'];
    let at = 0;
    while (value >= 1000 && at < scale.length - 1) [value, at] = [value / 1000, at + 1];
    return at ? `${digits(value)} ${scale[at]}` : `${value} B`;
  },
};

/** Put the figure `name` of each row as a line into `place`; its top is the largest value, at least `least`. */
function line(place, rows, name, unit, colour, least) {
  const known = rows.map((row, at) => [at, row[name], row]).filter(([, value]) => value != null);
  const values = known.map(([, value]) => value);
  const top = Math.max(least, ...values) || 1;
  const last = values.length ? unit(values[values.length - 1]) : 'no requests yet';
  const space = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(space, 'svg');
  const [width, height, edge] = [240, 44, 4];
  const add = (tag, attributes, title) => {
    const element = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (title) element.appendChild(document.createElementNS(space, 'title')).textContent = title;
    svg.appendChild(element);
  };
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `${name.replace(/_/g, ' ')} by request, the last one: ${last}`);
  const x = at => (rows.length < 2 ? width / 2 : edge + ((width - 2 * edge) * at) / (rows.length - 1));
  const y = value => height - edge - ((height - 2 * edge) * value) / top;
  const still = { 'vector-effect': 'non-scaling-stroke' };
  add('line', { x1: 0, x2: width, y1: height - edge, y2: height - edge, stroke: 'rgba(128,128,128,.4)', ...still });
  const points = known.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`);
  add('polyline', { points: points.join(' '), fill: 'none', stroke: colour, 'stroke-width': 2, 'stroke-linejoin': 'round', ...still });
  // a line of no length with a round end is a dot, whatever the drawing is stretched to
  const dots = known.length <= 20 ? known : known.slice(-1);
  for (const [at, value] of dots) {
    const [px, py] = [x(at).toFixed(1), y(value).toFixed(1)];
    add('path', { d: `M${px} ${py}h0`, stroke: colour, 'stroke-width': 6, 'stroke-linecap': 'round', ...still });
  }
  const step = rows.length < 2 ? width : (width - 2 * edge) / (rows.length - 1);
  for (const [at, value, row] of known) {
    const told = `request ${row.request}, ${row.strategy}: ${unit(value)}`;
    add('rect', { x: x(at) - step / 2, y: 0, width: step, height, fill: 'transparent' }, told);
  }
  place.replaceChildren(svg);
}

/** A strategy and the number it is dosed with; `changed({strategy, value})` is called when the user sets either. */
function picker(changed) {
  let choices = [];
  const select = make('select', { 'aria-label': 'strategy', onchange: () => choose(null) });
  const range = make('input', { type: 'range', min: 0, max: 1, step: KNOB_STEP, oninput: told, onchange: () => give() });
  const figure = make('span', { class: 'dim', style: 'min-width:3.2em' });
  const name = make('span');
  const knob = make('label', {}, name, range, figure);
  let value = null;
  const chosen = () => choices.find(one => one.name === select.value);
  function told() {
    value = range.disabled ? null : Number(range.value);
    figure.textContent = range.disabled ? '' : value.toFixed(2);
  }
  function give() {
    told();
    changed?.({ strategy: select.value, value });
  }
  function show(given) {
    const one = chosen();
    range.disabled = !one?.knob;
    knob.style.display = range.disabled ? 'none' : '';
    name.textContent = one?.knob || 'budget';
    select.title = one?.summary ?? '';
    value = one?.knob ? given ?? one.value : null;
    range.value = value ?? 0;
    figure.textContent = !one?.knob ? '' : value == null ? 'default' : value.toFixed(2);
  }
  function choose(given) {
    show(given);
    changed?.({ strategy: select.value, value });
  }
  return {
    elements: [make('label', {}, 'strategy', select), knob],
    get: () => ({ strategy: select.value, value }),
    fill(all, picked) {
      if (document.activeElement === range) return;
      if (JSON.stringify(all) !== JSON.stringify(choices)) {
        choices = all;
        const option = one => make('option', { value: one.name, disabled: Boolean(one.why), title: one.why || one.summary }, one.name);
        select.replaceChildren(...all.map(option));
        select.value = '';
      }
      if (picked && (select.value !== picked.strategy || value !== picked.value)) {
        select.value = picked.strategy;
        show(picked.value);
      }
    },
  };
}

/** Send `given` to the kernel; where no answer comes soon, `wait` is shown in `place`. An answer is any new state. */
function asker(model, place, wait) {
  let timer = null;
  model.on('change:state', () => clearTimeout(timer));
  return given => {
    clearTimeout(timer);
    timer = setTimeout(() => (place.textContent = wait), 500);
    model.send(given);
  };
}

/** Hide the static pictures of this widget that stand on the page while it is live. */
function hideRecord(model, el) {
  const name = `nbkv-record-${model.get('state').record}`;
  el.append(make('style', {}, `.${name},.jp-OutputArea-child:has(.${name}){display:none}`));
}
