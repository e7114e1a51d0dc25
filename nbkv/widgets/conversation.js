function render({ model, el }) {
  const title = make('h4');
  const system = make('div', { class: 'dim' });
  const turns = make('div', { class: 'turns', role: 'log', 'aria-label': 'turns so far' });
  const live = make('div', { class: 'turn live', 'aria-live': 'off' });
  const saved = make('div', { class: 'saved', role: 'status', 'aria-live': 'polite' });
  const text = make('textarea', { 'aria-label': 'your turn', placeholder: 'Your turn: Enter sends it, Shift+Enter begins a new line', rows: 2 });
  const editing = make('div', { class: 'row editing' });
  const most = make('input', { type: 'number', min: 1, max: 4096, style: 'width:5.5em', 'aria-label': 'most tokens of an answer' });
  const said = make('div', { class: 'said', role: 'status', 'aria-live': 'polite' });
  const ask = asker(model, said, 'the kernel is busy with a cell: this is done when the cell has ended');
  const pick = picker(null);
  const send = make('button', { class: 'main', onclick: begin }, 'Send');
  const stop = make('button', { onclick: () => ask({ do: 'stop' }) }, 'Stop');
  let [known, turn, waits] = [false, null, null]; // waits: what was sent and is not answered yet
  // the notebook has keys of its own for what is typed outside cells
  text.addEventListener('keydown', event => {
    event.stopPropagation();
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      begin();
    } else if (event.key === 'Escape' && turn !== null) edit(null);
  });
  el.classList.add('nbkv-live', 'nbkv-talk');
  el.append(title, system, turns, live, saved, editing, text,
    make('div', { class: 'row' }, send, stop, ...pick.elements, make('label', {}, 'tokens', most)), said);
  hideRecord(model, el);

  function begin() {
    if (send.disabled || !text.value.trim()) return;
    waits = { before: model.get('cards').length, text: text.value };
    ask({ do: 'send', ...pick.get(), text: text.value, turn, max_new: Number(most.value) });
    text.value = '';
    edit(null);
  }

  /** Put the question of a turn (counted from 1) into the box, to be asked in its place; null: at the end again. */
  function edit(number) {
    turn = number;
    const after = model.get('cards').length - number;
    const dropped = after > 0 ? ` and the ${after === 1 ? 'turn' : `${after} turns`} after it` : '';
    const cancel = make('button', { onclick: () => edit(null) }, 'Cancel');
    editing.replaceChildren(...(number === null ? [] : [`In place of turn ${number}${dropped}`, cancel]));
    if (number !== null) {
      text.value = model.get('cards')[number - 1].asked;
      text.focus();
    }
  }

  function question(number, words, ...more) {
    return make('div', { class: 'asked' }, make('b', {}, `${number}`), make('span', {}, words), ...more);
  }

  function drawTurns() {
    const cards = model.get('cards');
    const one = (card, at) => {
      const body = make('div');
      body.innerHTML = card.html; // made by nbkv.show, which escapes all text
      const change = make('button', { onclick: () => edit(at + 1), 'aria-label': `edit turn ${at + 1}`, title: 'put it otherwise and ask from here again' }, 'Edit');
      return make('div', { class: 'turn' }, question(at + 1, card.asked, change), body);
    };
    const empty = make('div', { class: 'dim' }, 'Nothing said yet.');
    turns.replaceChildren(...(cards.length ? cards.map(one) : [empty]));
    if (turn !== null && turn > cards.length) edit(null);
  }

  function draw() {
    const state = model.get('state');
    title.textContent = `Chat · ${state.session} · ${state.model}`;
    system.textContent = state.system;
    saved.textContent = state.saved;
    send.disabled = state.running || state.closed;
    stop.disabled = !state.running;
    pick.fill(state.choices, known ? null : state.picked);
    if (!known) most.value = state.most;
    known = true;
    live.style.display = state.running ? '' : 'none';
    if (state.running) {
      const body = make('div');
      body.innerHTML = state.html || '<p class="dim">reading …</p>'; // made by nbkv.show, as above
      live.replaceChildren(make('div', { class: 'asked' }, make('b', {}, '…'), make('span', {}, state.asked)), body);
    } else {
      live.replaceChildren();
      if (waits && state.said && !text.value) text.value = waits.text; // what failed need not be typed again
    }
    if (!state.running) waits = state.said || model.get('cards').length !== waits?.before ? null : waits;
    const words = state.closed ? 'the session is closed' : state.said;
    if (said.textContent !== words) said.textContent = words;
  }

  model.on('change:state', draw);
  model.on('change:cards', drawTurns);
  drawTurns();
  draw();
  return () => {
    model.off('change:state', draw);
    model.off('change:cards', drawTurns);
  };
}

export default { render };
