// The page of the reviewer. Python holds the images and the decisions; this draws cards and sends what a person does.
// To Python: {kind: 'page' | 'decide' | 'undo' | 'redo' | 'look' | 'plan' | 'apply' | 'restore', …}.
// From Python: {kind: 'page' | 'changed' | 'look' | 'plan' | 'moved' | 'ranked' | 'said', …}.

const h = (tag, props = {}, ...kids) => {
  const el = document.createElement(tag);
  for (const [k, v] of Object.entries(props))
    if (k.startsWith('on')) el.addEventListener(k.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) el.setAttribute(k, v === true ? '' : v);
  el.append(...kids.flat().filter(o => o !== null && o !== undefined && o !== false));
  return el;
};
const percent = p => p > .99 ? '>99%' : `${Math.round(100 * p)}%`;
const nice = s => s.replaceAll('_', ' ');
const many = (n, one) => `${n.toLocaleString('en')} ${one}${n === 1 ? '' : 's'}`;
const SIZES = { small: 130, medium: 180, large: 280 };
const KEYS = [['K', 'keep'], ['D', 'drop'], ['1–9', 'a class'], ['C', 'another class'], ['← → ↑ ↓', 'move'], ['N  P', 'next, previous page'],
  ['Enter', 'large view'], ['G', 'decide for the whole group'], ['U  R', 'undo, redo'], ['Esc', 'close'], ['?', 'these keys']];

class Page {
  constructor(model, el) {
    this.model = model; this.facts = model.get('facts'); this.cards = []; this.at = 0;
    this.ask = { page: 0, size: this.facts.size, side: 360, label: '', reason: '', state: 'all' };
    this.waiting = 0; this.big = this.looking = null; this.group = false; this.counts = { classes: [], reasons: {}, total: 0, decided: 0 };
    this.build(el);
    this.hear = m => this.on[m.kind]?.call(this, m);
    model.on('msg:custom', this.hear);
    this.turn(0);
  }
  send(m) { this.model.send(m); }

  // ---- The frame: title, progress, filters, cards, foot ----

  build(el) {
    this.bar = h('div', { class: 'fill' });
    this.progress = h('div', { class: 'progress', role: 'progressbar', 'aria-label': 'Decided', 'aria-valuemin': 0 }, this.bar);
    this.told = h('div', { class: 'told' });
    this.label = this.choose('Class', 'label'); this.reason = this.choose('Reason', 'reason'); this.state = this.choose('Shown', 'state');
    this.zoom = h('select', { 'aria-label': 'Size of the pictures', onchange: () => this.resize() }, Object.keys(SIZES).map(k => h('option', { value: k, selected: k === 'medium' }, k)));
    this.undo = h('button', { class: 'ghost', 'data-do': 'undo', onclick: () => this.send({ kind: 'undo' }) }, 'Undo');
    this.redo = h('button', { class: 'ghost', 'data-do': 'redo', onclick: () => this.send({ kind: 'redo' }) }, 'Redo');
    this.groups = h('input', { type: 'checkbox', onchange: () => { this.group = this.groups.checked; } });
    this.grid = h('div', { class: 'grid', role: 'list', 'aria-label': 'Images' });
    this.prev = h('button', { class: 'ghost', 'data-do': 'prev', onclick: () => this.turn(this.ask.page - 1) }, '‹ Previous');
    this.next = h('button', { class: 'ghost', 'data-do': 'next', onclick: () => this.forward() }, 'Next ›');
    this.where = h('span', { class: 'where' });
    this.say = h('div', { class: 'say', role: 'status', 'aria-live': 'polite' });
    this.over = h('div', { class: 'over', hidden: true, onclick: e => e.target === this.over && this.close() });
    this.rest = h('button', { class: 'ghost', 'data-do': 'keep-rest', title: 'Keep every image of this page that is undecided', onclick: () => this.keepRest() }, 'Keep the rest of this page');
    this.ranked = h('button', { class: 'ghost', 'data-do': 'ranked', onclick: () => this.turn(0) }, 'Ranked: show the doubtful first');
    this.root = h('section', { class: 'bear-review', tabindex: -1, 'aria-label': `Review of ${this.facts.title}`, 'data-lm-suppress-shortcuts': 'true', onkeydown: e => this.key(e) },
      h('header', {}, h('div', { class: 'name' }, h('h2', {}, this.facts.title), this.told), this.progress),
      h('div', { class: 'tools' }, this.label.el, this.reason.el, this.state.el, h('label', { class: 'field' }, h('span', {}, 'Pictures'), this.zoom),
        h('span', { class: 'gap' }), h('label', { class: 'check', title: 'Near-copies are decided together (G)' }, this.groups, 'whole group'), this.undo, this.redo),
      this.legend = h('div', { class: 'legend' }), this.grid,
      h('footer', {}, this.prev, this.where, this.next, h('span', { class: 'gap' }), this.rest,
        h('button', { class: 'solid', 'data-do': 'plan', onclick: () => this.send({ kind: 'plan' }) }, 'See what changes…'),
        h('button', { class: 'ghost', 'data-do': 'keys', 'aria-label': 'Keys', onclick: () => this.keys() }, '?')),
      this.say, this.over);
    el.append(this.root);
    this.resize();
  }
  choose(words, key) {
    const select = h('select', { 'data-filter': key, onchange: () => { this.ask[key] = select.value; this.turn(0); } });
    return { select, el: h('label', { class: 'field' }, h('span', {}, words), select) };
  }
  fill(o, options, chosen) {
    const now = JSON.stringify(options);
    if (o.was !== now) { o.select.replaceChildren(...options.map(([v, t]) => h('option', { value: v }, t))); o.was = now; }
    o.select.value = chosen;
  }
  resize() { this.root.style.setProperty('--side', `${SIZES[this.zoom.value]}px`); }
  turn(page) {
    this.ask.page = this.ranked.isConnected ? 0 : Math.max(0, page);  // in a new order the old numbers mean nothing
    this.ranked.remove();
    this.waiting++;
    this.send({ kind: 'page', ...this.ask });
  }
  // What was decided and fits the filter no longer makes room: the next images are on the page of the same number.
  forward() { if (this.more()) this.turn(this.ask.page + (this.left ? 0 : 1)); }
  more() { return this.left || this.ask.page < this.pages - 1; }
  fits(act) { const s = this.ask.state; return s === 'all' || (s === 'open' ? !act : s === 'decided' ? !!act : act === s); }
  did(act) { this.touched = true; if (!this.fits(act)) this.left = true; this.next.disabled = !this.more(); }
  busy() {
    const o = this.waiting ? 'page' : this.looking ? 'image' : '';
    if (o) this.tell(`One moment: the next ${o} is coming`);
    return !!o;
  }

  // ---- What Python says ----

  on = {
    page(m) {
      this.waiting = Math.max(0, this.waiting - 1);
      this.ask.page = m.page; this.pages = m.pages; this.left = this.touched = false;
      const mine = this.root.matches(':focus-within');  // before the card that has it goes
      this.count(m.counts);
      this.cards = m.cards.map((c, i) => new Card(this, c, i));
      this.grid.replaceChildren(...(this.cards.length ? this.cards.map(c => c.el) : [h('p', { class: 'empty' }, 'No image fits these filters.')]));
      this.where.textContent = `Page ${m.page + 1} of ${m.pages} · ${many(m.found, 'image')}`;
      this.prev.disabled = m.page === 0; this.next.disabled = !this.more();
      this.root.dataset.ready = 'true';
      this.focus(this.last ? this.cards.length - 1 : 0, mine); this.last = false;
      if (m.told && m.told !== this.warned) this.tell(this.warned = m.told, true);
      if (this.big) { if (this.cards.length) this.look(this.cards[this.at]); else this.close(); }
    },
    changed(m) {
      this.count(m.counts);
      for (const c of m.cards) this.cards.find(o => o.c.id === c.id)?.update(c);
      this.left = this.cards.some(o => !this.fits(o.c.do)); this.next.disabled = !this.more();
      const first = m.ids && this.cards.findIndex(o => m.ids.includes(o.c.id));
      if (first >= 0) { this.focus(first); if (this.big) this.look(this.cards[first]); }
      this.tell(m.words);
    },
    look(m) { if (m.card.id === this.looking) this.open(this.large(m), m.card.name, m.card.id); },
    plan(m) { this.open(this.table(m), 'What changes'); },
    moved(m) { this.close(); this.tell(m.words, m.bad); this.turn(this.ask.page); },
    ranked() {
      this.facts = { ...this.facts, ranked: true };
      if (this.touched || !this.over.hidden) return this.where.after(this.ranked);
      this.tell('Ranked: the doubtful images come first'); this.turn(0);
    },
    said(m) {
      if (m.about === 'page') this.waiting = Math.max(0, this.waiting - 1);
      if (m.about === 'look') this.close();
      this.tell(m.words, m.bad);
    },
  };
  count(c) {
    this.counts = c;
    const share = c.total ? c.decided / c.total : 0;
    this.bar.style.width = `${100 * share}%`;
    this.progress.setAttribute('aria-valuenow', c.decided); this.progress.setAttribute('aria-valuemax', c.total);
    this.told.textContent = `${c.decided.toLocaleString('en')} of ${many(c.total, 'image')} decided: ${c.keep} kept, ${c.label} relabelled, ${c.drop} dropped`;
    this.fill(this.label, [['', 'all classes'], ...c.classes.map(k => [k, nice(k)])], this.ask.label);
    this.fill(this.reason, [['', 'any reason'], ...Object.entries(this.facts.reasons).filter(([k]) => c.reasons[k]).map(([k, v]) => [k, `${v} (${c.reasons[k]})`])], this.ask.reason);
    this.fill(this.state, Object.entries(this.facts.states), this.ask.state);
    this.undo.disabled = !c.undo; this.redo.disabled = !c.redo;
    this.legend.replaceChildren(h('span', {}, h('kbd', {}, 'K'), 'keep'), h('span', {}, h('kbd', {}, 'D'), 'drop'),
      ...c.classes.slice(0, 9).map((k, i) => h('span', {}, h('kbd', {}, `${i + 1}`), nice(k))), h('span', {}, h('kbd', {}, '↵'), 'large'), h('span', {}, h('kbd', {}, 'U'), 'undo'), h('span', {}, h('kbd', {}, '?'), 'all keys'));
  }
  tell(words, bad = false) {
    this.say.textContent = words; this.say.classList.toggle('bad', bad); this.say.classList.add('on');
    clearTimeout(this.timer); this.timer = setTimeout(() => this.say.classList.remove('on'), bad ? 9000 : 2600);
  }

  // ---- What a person does ----

  focus(i, really = true) {
    if (!this.cards.length) return;
    this.at = Math.min(Math.max(0, i), this.cards.length - 1);
    this.cards.forEach((c, k) => { c.el.tabIndex = k === this.at ? 0 : -1; c.el.classList.toggle('here', k === this.at); });
    if (really) this.cards[this.at].el.focus();
  }
  decide(card, act, to = '') {
    if (this.busy()) return;
    const isNew = card.c.label === 'new';
    if (act === 'keep' && isNew) { act = 'label'; to = card.c.guess; }
    this.send({ kind: 'decide', ids: [card.c.id], do: act, to, group: this.group });
    this.did(act);
    this.step(card.i + 1);
    if (this.big && !this.waiting && this.cards[this.at] !== card) this.look(this.cards[this.at]);
  }
  another(card) {
    const input = h('input', { type: 'text', placeholder: 'name of the class', 'aria-label': 'Name of the class', maxlength: 100 });
    const done = e => { e.preventDefault(); const to = input.value.trim(); if (to) { this.close(); this.decide(card, 'label', to); } };
    this.open(h('form', { class: 'ask', onsubmit: done }, input, h('button', { class: 'solid' }, 'Label')), 'Another class');
    input.focus();
  }
  keepRest() {
    if (this.busy()) return;
    const ids = this.cards.filter(c => !c.c.do && c.c.label !== 'new').map(c => c.c.id);
    if (ids.length) { this.send({ kind: 'decide', ids, do: 'keep' }); this.did('keep'); } else this.tell('All of this page is decided');
  }
  step(i) {
    if (i >= 0 && i < this.cards.length) this.focus(i);
    else if (i >= this.cards.length && this.more()) this.forward();
    else if (i < 0 && this.ask.page > 0) { this.last = true; this.turn(this.ask.page - 1); }
    else this.focus(this.at);
  }
  columns() { return Math.max(1, getComputedStyle(this.grid).gridTemplateColumns.split(' ').length); }
  key(e) {
    e.stopPropagation();
    if (e.key === 'Escape') { this.close(); return e.preventDefault(); }
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && e.target.type !== 'checkbox') return;
    if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === 'z') { this.send({ kind: e.shiftKey ? 'redo' : 'undo' }); return e.preventDefault(); }
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const shown = !this.over.hidden, card = shown ? this.cards.find(o => o.c.id === this.big) : this.cards[this.at];
    if (shown && !this.big) return;  // a sheet lies over the images
    const k = e.key.length === 1 ? e.key.toLowerCase() : e.key;
    if (e.target.tagName === 'BUTTON' && (k === 'Enter' || k === ' ')) return;
    const acts = {
      u: () => this.send({ kind: 'undo' }), r: () => this.send({ kind: 'redo' }), '?': () => this.keys(), n: () => this.forward(), p: () => this.turn(this.ask.page - 1),
      g: () => { this.group = this.groups.checked = !this.group; this.tell(this.group ? 'Near-copies are decided together' : 'Each image is decided alone'); },
      ArrowRight: () => this.step(this.at + 1), ArrowLeft: () => this.step(this.at - 1), ArrowDown: () => this.step(this.at + this.columns()), ArrowUp: () => this.step(this.at - this.columns()) };
    if (card) Object.assign(acts, { k: () => this.decide(card, 'keep'), d: () => this.decide(card, 'drop'), Delete: () => this.decide(card, 'drop'), c: () => this.another(card),
      Enter: () => this.look(card), ' ': () => this.look(card) });
    const to = /^[1-9]$/.test(k) && this.counts.classes[+k - 1];
    if (to && card) acts[k] = () => this.decide(card, 'label', to);
    if (!acts[k]) return;
    e.preventDefault();
    if (this.waiting || (shown && this.looking)) return void this.busy();
    acts[k]();
    if (shown && /^Arrow/.test(k) && !this.waiting && this.cards[this.at] !== card) this.look(this.cards[this.at]);
  }

  // ---- What lies over the page ----

  look(card) { this.focus(card.i); this.looking = card.c.id; this.send({ kind: 'look', id: card.c.id }); }
  open(content, title, big = null) {
    this.big = big; this.looking = null;
    const x = h('button', { class: 'close', 'aria-label': 'Close', onclick: () => this.close() }, '×');
    this.over.replaceChildren(h('div', { class: 'sheet', role: 'dialog', 'aria-label': title }, h('div', { class: 'head' }, h('h3', {}, title), x), content));
    if (this.over.hidden) { this.over.hidden = false; x.focus(); }
  }
  close() { this.big = this.looking = null; if (!this.over.hidden) { this.over.hidden = true; this.over.replaceChildren(); this.focus(this.at); } }
  keys() { this.open(h('dl', { class: 'keys' }, KEYS.map(([k, v]) => [h('dt', {}, k.split('  ').map(o => h('kbd', {}, o))), h('dd', {}, v)])), 'Keys'); }
  large(m) {
    const c = m.card, veil = m.map && h('img', { class: 'veil', src: m.map, alt: '' });
    const card = this.cards.find(o => o.c.id === c.id);
    return h('div', { class: 'large' },
      h('div', { class: 'shot' }, h('div', { class: 'frame' }, h('img', { src: m.src, alt: c.name }), veil),
        veil && h('label', { class: 'check' }, h('input', { type: 'checkbox', checked: true, onchange: e => { veil.hidden = !e.target.checked; } }), 'show where the model looked')),
      h('div', { class: 'facts' }, h('p', { class: 'big' }, 'Labelled ', h('b', {}, nice(c.label))), c.reason && h('p', { class: 'why' }, c.reason),
        m.bars.length > 0 && h('ul', { class: 'bars' }, m.bars.map(([k, p]) => h('li', {}, h('span', {}, k), h('i', { style: `--p:${p}` }), h('em', {}, percent(p))))),
        m.near.length > 0 && [h('h4', {}, 'Nearest neighbours'), h('div', { class: 'near' }, m.near.map(o => h('figure', {}, h('img', { src: o.src, alt: '' }), h('figcaption', {}, nice(o.label)))))],
        card && card.buttons()));
  }
  table(m) {
    const more = m.moves + m.problems - m.rows.length;
    const rows = m.rows.map(([a, b, why, bad]) => h('tr', { class: bad && 'bad' }, h('td', {}, a), h('td', {}, bad ? `refused: ${b}` : nice(b)), h('td', {}, nice(why))));
    const buttons = h('div', { class: 'row' }, h('button', { class: 'solid', 'data-do': 'apply', disabled: !m.moves, onclick: () => this.send({ kind: 'apply' }) }, m.moves ? `Apply: move ${many(m.moves, 'image')}` : 'Nothing to move'),
      h('button', { class: 'ghost', 'data-do': 'restore', title: 'Everything that was moved goes back to where it was', onclick: () => this.send({ kind: 'restore' }) }, 'Bring back all that was moved'));
    return h('div', {}, h('p', { class: 'why' }, 'Nothing is deleted: dropped images go to the dataset’s .trash folder, and come back with one click.'),
      rows.length ? h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, ['image', 'becomes', 'because'].map(o => h('th', {}, o)))), h('tbody', {}, rows))) : null, more > 0 && h('p', { class: 'why' }, `and ${more.toLocaleString('en')} more`), buttons);
  }
}

class Card {
  constructor(page, c, i) {
    this.page = page; this.i = i;
    this.pic = c.src ? h('img', { src: c.src, alt: '', draggable: 'false' }) : h('span', { class: 'none' }, 'does not open');
    this.mark = h('span', { class: 'mark' }); this.label = h('span', { class: 'label' }); this.guess = h('span', { class: 'guess' }); this.why = h('p', { class: 'why' });
    this.copies = h('span', { class: 'copies' });
    this.acts = h('div', { class: 'acts' });
    this.el = h('article', { class: 'card', role: 'listitem', tabindex: -1, onclick: e => !e.target.closest('button,select') && page.focus(i), onfocus: () => page.at !== i && page.focus(i, false) },
      h('div', { class: 'pic', title: 'Enlarge', onclick: () => page.look(this) }, this.pic, this.mark, this.copies),
      h('div', { class: 'line' }, this.label, this.guess), this.why, this.acts);
    this.update(c);
  }
  update(c) {
    this.c = c;
    const words = { keep: '✓ kept', drop: '✕ dropped', label: `→ ${nice(c.to)}` }[c.do] || '';
    this.el.dataset.do = c.do; this.el.dataset.id = c.id;
    this.mark.textContent = words; this.mark.hidden = !words; if (c.who) this.mark.title = `by ${c.who}`;
    this.label.textContent = nice(c.label);
    this.guess.textContent = c.guess ? `model: ${nice(c.guess)} ${percent(c.confidence)}` : '';
    this.guess.classList.toggle('other', !!c.guess && c.guess !== c.label);
    this.why.textContent = c.reason; this.why.title = c.reason;
    this.copies.textContent = c.copies ? `+${many(c.copies, 'near-copy').replace('copys', 'copies')}` : ''; this.copies.hidden = !c.copies;
    this.el.setAttribute('aria-label', [c.name, `labelled ${nice(c.label)}`, this.guess.textContent, c.reason, words].filter(Boolean).join('; '));
    this.acts.replaceChildren(...this.buttons().children);
  }
  buttons() {
    const { page, c } = this, on = (act, to) => c.do === act && (!to || c.to === to);
    const pick = h('select', { 'aria-label': 'Another class', onchange: () => pick.value === '…' ? page.another(this) : pick.value && page.decide(this, 'label', pick.value) },
      h('option', { value: '' }, c.do === 'label' ? nice(c.to) : 'as…'), page.counts.classes.filter(k => k !== c.label).map(k => h('option', { value: k }, nice(k))), h('option', { value: '…' }, 'a new one…'));
    const said = c.label === 'new' && c.guess ? nice(c.guess) : 'keep';
    return h('div', { class: 'acts' }, h('button', { class: on('keep') && 'on', 'data-act': 'keep', tabindex: -1, onclick: () => page.decide(this, 'keep') }, said),
      h('button', { class: on('drop') && 'on', 'data-act': 'drop', tabindex: -1, onclick: () => page.decide(this, 'drop') }, 'drop'), pick);
  }
}

export default {
  render({ model, el }) {
    const page = new Page(model, el);
    return () => { model.off('msg:custom', page.hear); clearTimeout(page.timer); };
  },
};
