function render({ model, el }) {
  let order = []; // every chunk, in the order of the prompt
  const used = new Set();
  const list = make('ol', { 'aria-label': 'chunks, in the order of the prompt' });
  const text = make('textarea', { 'aria-label': 'text behind the chunks', placeholder: 'Text behind the chunks, such as a question' });
  const most = make('input', { type: 'number', min: 1, max: 4096, value: 32, style: 'width:5.5em', 'aria-label': 'most tokens to generate' });
  const measure = make('input', { type: 'checkbox' });
  const cards = make('div', { class: 'cards', tabindex: 0, role: 'region', 'aria-label': 'answers, side by side' });
  const fair = make('div', { class: 'dim fair' }, 'Every run begins with the same store: what one computes, no other finds.');
  const [title, said] = [make('h4'), make('div', { class: 'said', role: 'status', 'aria-live': 'polite' })];
  const ask = asker(model, said, 'the kernel is busy with a cell: this is done when the cell has ended');
  const pick = picker(null);
  const run = make('button', { class: 'main', onclick: begin }, 'Run');
  const stop = make('button', { onclick: () => ask({ do: 'stop' }) }, 'Stop');
  const clear = make('button', { onclick: () => ask({ do: 'clear' }) }, 'Clear');
  let [known, running] = [false, null];
  // the notebook has keys of its own for what is typed outside cells
  text.addEventListener('keydown', event => {
    event.stopPropagation();
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) begin();
  });
  el.classList.add('nbkv-live', 'nbkv-play');
  const left = make('div', {}, list, text,
    make('div', { class: 'row' }, ...pick.elements),
    make('div', { class: 'row' }, make('label', {}, 'tokens', most), make('label', { title: 'runs the prompt in full as well, after the answer' }, measure, 'measure against full')),
    make('div', { class: 'row' }, run, stop, clear), fair, said);
  el.append(title, make('div', { class: 'play' }, left, cards));
  hideRecord(model, el);

  function begin() {
    if (run.disabled) return;
    const names = order.filter(name => used.has(name));
    ask({ do: 'run', ...pick.get(), order: names, text: text.value, max_new: Number(most.value), measure: measure.checked });
  }

  function move(name, by) {
    const at = order.indexOf(name);
    const to = at + by;
    if (to < 0 || to >= order.length) return;
    [order[at], order[to]] = [order[to], order[at]];
    listChunks();
    list.querySelectorAll(`li:nth-child(${to + 1}) button`)[by < 0 ? 0 : 1]?.focus();
  }

  function listChunks() {
    const chunks = Object.fromEntries(model.get('state').chunks.map(chunk => [chunk.name, chunk]));
    for (const name of Object.keys(chunks)) if (!order.includes(name)) order.push(name), used.add(name);
    order = order.filter(name => chunks[name]);
    const item = (name, at) => {
      const toggle = event => (event.target.checked ? used.add(name) : used.delete(name));
      const box = make('input', { type: 'checkbox', checked: used.has(name), 'aria-label': `use ${name}`, onchange: toggle });
      const words = make('span', { class: 'cut', title: `${name}: ${chunks[name].text}` }, name);
      const arrow = (sign, by, where) => make('button', { onclick: () => move(name, by), disabled: at + by < 0 || at + by >= order.length, 'aria-label': `move ${name} ${where}` }, sign);
      return make('li', {}, box, words, make('span', { class: 'dim' }, `${chunks[name].tokens}`), arrow('↑', -1, 'up'), arrow('↓', 1, 'down'));
    };
    const none = make('li', { class: 'dim' }, 'no chunks yet: %%kvchunk NAME makes one');
    list.replaceChildren(...(order.length ? order.map(item) : [none]));
  }

  function drawCards() {
    const state = model.get('state');
    running = state.running;
    const one = card => {
      const body = make('div');
      body.innerHTML = card.html; // made by nbkv.show, which escapes all text
      return make('div', { class: 'card' }, make('h4', { class: 'cut', title: card.title }, card.title), body);
    };
    const live = make('div', { class: 'card live' }, make('h4', {}, 'running'), make('pre', {}, state.text));
    const empty = make('div', { class: 'dim' }, 'Answers appear here, side by side.');
    const shown = [...model.get('cards').map(one), ...(state.running ? [live] : [])];
    cards.replaceChildren(...(shown.length ? shown : [empty]));
    cards.scrollLeft = cards.scrollWidth; // the newest is seen, those before it are beside it
  }

  function draw() {
    const state = model.get('state');
    title.textContent = `Playground · ${state.session} · ${state.model}`;
    run.disabled = state.running || state.closed;
    stop.disabled = !state.running;
    pick.fill(state.choices, known ? null : state.picked);
    known = true;
    const names = JSON.stringify(state.chunks);
    if (list.dataset.shown !== names) listChunks();
    list.dataset.shown = names;
    if (state.running !== running) drawCards(); // not at each state: what the reader has unfolded stays so
    const live = cards.querySelector('.live pre');
    if (live) live.textContent = state.text;
    const words = state.closed ? 'the session is closed' : state.said;
    if (said.textContent !== words) said.textContent = words;
  }

  model.on('change:state', draw);
  model.on('change:cards', drawCards);
  draw();
  return () => {
    model.off('change:state', draw);
    model.off('change:cards', drawCards);
  };
}

export default { render };
