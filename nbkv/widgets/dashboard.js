// name, title, figure, unit, the least value that is drawn as high as the drawing (what KL has below is noise)
const TILES = [
  ['hit', 'Hit rate', 'hit_rate', units.share, 1],
  ['ttft', 'Time to first token', 'ttft_s', units.seconds, 0],
  ['speed', 'Speed', 'tokens_per_s', units.rate, 0],
  ['kl', 'KL to full', 'kl', units.nats, 1e-6],
];

function tile(title) {
  const [figure, more, drawing] = [make('b'), make('div', { class: 'dim cut' }), make('div')];
  const box = make('div', { class: 'tile' }, make('div', { class: 'dim cut', title }, title), figure, more, drawing);
  return { box, figure, more, drawing };
}

function progress(live) {
  if (!live.request) return 'idle';
  const who = `request ${live.request}, ${live.strategy}`;
  if (live.tokens) return `${who}: ${plural(live.tokens, 'token')}${live.tokens_per_s ? `, ${units.rate(live.tokens_per_s)}` : ''}`;
  return `${who}: prompt of ${plural(live.prompt, 'token')}, layer ${live.layer} of ${live.layers || UNKNOWN}`;
}

function render({ model, el }) {
  const tiles = Object.fromEntries(TILES.map(([name, title]) => [name, tile(title)]));
  const store = tile('Store');
  const [title, now, said] = [make('h4'), make('span', { class: 'dim' }), make('div', { class: 'said', role: 'status', 'aria-live': 'polite' })];
  const ask = asker(model, said, 'the kernel is busy with a cell: this takes effect when the cell has ended');
  const pause = make('button', { onclick: () => ask({ do: model.get('state').paused ? 'resume' : 'pause' }) });
  const reset = make('button', { onclick: () => ask({ do: 'reset' }), title: 'begin the curves anew; session and store stay as they are' }, 'Reset');
  const pick = picker(given => ask({ do: 'use', ...given }));
  el.classList.add('nbkv-live', 'nbkv-dash');
  el.append(
    make('div', { class: 'row' }, title, now),
    make('div', { class: 'row' }, ...pick.elements, make('span', { class: 'row push', style: 'margin-top:0;margin-bottom:0' }, pause, reset)),
    make('div', { class: 'tiles' }, ...TILES.map(([name]) => tiles[name].box), store.box),
    said,
  );
  hideRecord(model, el);

  function drawLive() {
    const [state, live] = [model.get('state'), model.get('live')];
    now.textContent = state.closed ? 'closed' : state.paused ? 'paused' : progress(live);
    const speeds = state.rows.map(row => row.tokens_per_s).filter(value => value != null);
    tiles.speed.figure.textContent = units.rate(live.tokens_per_s ?? speeds.at(-1));
  }

  function draw() {
    const state = model.get('state');
    title.textContent = `${state.session} · ${state.model}`;
    pause.textContent = state.paused ? 'Resume' : 'Pause';
    pick.fill(state.choices, state.picked);
    const last = name => state.rows.map(row => row[name]).filter(value => value != null).at(-1);
    for (const [name, , key, unit, least] of TILES) {
      const part = tiles[name];
      part.figure.textContent = unit(last(key));
      line(part.drawing, state.rows, key, unit, 'currentColor', least);
    }
    tiles.hit.more.textContent = `all ${state.requests}: ${units.share(state.hit_rate)}`;
    tiles.ttft.more.textContent = `median ${units.seconds(state.ttft_s)}`;
    tiles.speed.more.textContent = `median ${units.rate(state.tokens_per_s)}`;
    const unmeasured = state.rows.length > 0 && state.kl == null;
    tiles.kl.more.textContent = unmeasured ? 'not measured' : `median ${units.nats(state.kl)}`;
    tiles.kl.more.title = unmeasured ? 'load with fidelity_every=n, or generate with fidelity=True' : '';
    const bytes = state.tiers.reduce((sum, tier) => sum + tier.bytes, 0);
    store.figure.textContent = units.size(bytes);
    store.more.textContent = `${plural(state.evictions, 'eviction')}, ${plural(state.fallbacks, 'fallback')}`;
    store.drawing.replaceChildren(...state.tiers.flatMap(bar));
    if (said.textContent !== state.said) said.textContent = state.said;
    drawLive();
  }

  function bar(tier) {
    const share = tier.limit ? Math.min(1, tier.bytes / tier.limit) : 0;
    const held = `${units.size(tier.bytes)}${tier.limit ? ` of ${units.size(tier.limit)}` : ''}`;
    const words = make('div', { class: 'two', title: `${tier.tier}: ${plural(tier.entries, 'entry', 'entries')}, ${held}` }, make('span', {}, tier.tier), make('span', { class: 'dim' }, held));
    return [words, make('div', { class: 'bar' }, make('i', { style: `width:${(100 * share).toFixed(1)}%` }))];
  }

  model.on('change:state', draw);
  model.on('change:live', drawLive);
  draw();
  return () => {
    model.off('change:state', draw);
    model.off('change:live', drawLive);
  };
}

export default { render };
