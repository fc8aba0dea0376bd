// The page of the dashboard. It shows what Python answers and knows nothing about bears itself.
// To Python: {kind: 'image', id, name, type} and the bytes; {kind: 'feedback', id, right}.
// From Python: {kind: 'answer', id, …} and {kind: 'noted', id, …}.

const h = (tag, props = {}, ...kids) => {
  const el = document.createElement(tag);
  for (const [k, v] of Object.entries(props))
    if (k.startsWith('on')) el.addEventListener(k.slice(2), v);
    else if (v !== null && v !== false) el.setAttribute(k, v === true ? '' : v);
  el.append(...kids.filter(o => o !== null && o !== undefined));
  return el;
};
const mb = n => `${(n / 2 ** 20).toFixed(1)} MB`;
const percent = p => p > 0 && p < .01 ? '<1%' : p < 1 && p > .99 ? '>99%' : `${Math.round(100 * p)}%`;

// ---- Before sending: a phone's photo becomes a picture of a sensible size, the right way up ----

async function bitmapOf(file) {
  try { return await createImageBitmap(file, { imageOrientation: 'from-image' }); }
  catch { return null; }  // no picture, or of a kind that this browser cannot read: the server says which
}

function drawn(bitmap, side) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const c = h('canvas', { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  const g = c.getContext('2d');
  g.fillStyle = '#fff'; g.fillRect(0, 0, c.width, c.height);
  g.imageSmoothingQuality = 'high';
  g.drawImage(bitmap, 0, 0, c.width, c.height);
  return c;
}

async function smaller(file, facts) {
  if (file.size <= facts.as_is) return file;
  const bitmap = await bitmapOf(file);
  if (!bitmap) return file;
  const canvas = drawn(bitmap, facts.side);
  bitmap.close();
  const blob = await new Promise(done => canvas.toBlob(done, 'image/jpeg', .9));
  return blob && blob.size < file.size ? blob : file;
}

// ---- One card for each picture ----

class Card {
  constructor(app, file) {
    this.app = app; this.file = file; this.id = app.next++; this.state = 'busy';
    this.url = URL.createObjectURL(file);
    this.img = h('img', { src: this.url, alt: `Your picture: ${file.name}`, onerror: () => this.noPicture() });
    this.frame = h('div', { class: 'frame' }, this.img);
    this.shot = h('div', { class: 'shot' }, h('img', { src: this.url, alt: '', class: 'back', onerror: e => e.target.remove() }), this.frame);
    this.verdict = h('h3', { class: 'verdict' }, 'Getting ready…');
    this.rest = h('div');
    this.told = h('div', { class: 'told' }, h('div', { class: 'file', title: file.name }, file.name), this.verdict, this.rest);
    this.el = h('article', { class: 'card busy', 'aria-busy': 'true', 'aria-label': file.name, 'data-state': 'busy' }, this.shot, this.told);
  }
  noPicture() { this.shot.querySelector('.back')?.remove(); this.frame.replaceChildren(h('span', { class: 'none', 'aria-hidden': 'true' }, '?')); }
  say(words) { if (this.state === 'busy') this.verdict.textContent = words; }
  end(state) {
    this.state = state;
    this.el.classList.remove('busy');
    this.el.removeAttribute('aria-busy');
    this.el.dataset.state = state;
    clearTimeout(this.timer);
    this.post = null;
  }
  fail(sentence, again) {
    this.end('bad');
    this.el.classList.add('bad');
    this.verdict.textContent = sentence;
    this.rest.replaceChildren(...(again ? [h('div', { class: 'tools' }, h('button', { class: 'ghost', onclick: again }, 'Try again'))] : []));
    this.app.announce(`${this.file.name}: ${sentence}`);
  }
  answer(a) {
    if (this.state !== 'busy') return;
    if (!a.ok) { if (!a.again) this.noPicture(); return this.fail(a.sentence, a.again && (() => this.app.again(this))); }
    this.end('done'); this.a = a;
    this.el.dataset.verdict = a.verdict;
    this.el.classList.toggle('doubt', a.verdict !== a.label);
    this.verdict.textContent = a.sentence;
    this.rest.replaceWith(...this.parts(a));
    this.app.announce(`${this.file.name}: ${a.sentence}. ${a.detail}`);
  }
  parts(a) {
    const bar = b => h('li', { class: b.key === a.label ? 'best' : '' }, h('span', {}, b.name),
      h('span', { class: 'track', 'aria-hidden': 'true' }, h('span', { class: 'fill', style: `width:${(100 * b.p).toFixed(1)}%` })),
      h('span', { class: 'pct' }, percent(b.p)));
    return [h('p', { class: 'why' }, a.detail),
      h('ul', { class: 'bars', 'aria-label': 'How likely each answer is' }, ...a.bars.map(bar)),
      h('div', { class: 'tools' }, a.map ? this.mapSwitch(a) : null, a.ask ? this.ask(a) : null)];
  }
  mapSwitch(a) {
    const b = h('button', { class: 'switch', role: 'switch', 'aria-checked': 'false', type: 'button' }, h('i', { 'aria-hidden': 'true' }), `Where it looked`);
    b.addEventListener('click', () => {
      const on = b.getAttribute('aria-checked') !== 'true';
      b.setAttribute('aria-checked', String(on));
      if (on) this.frame.append(this.map ??= heat(a.map, a.map_words));
      else this.map.remove();
    });
    return b;
  }
  ask(a) {
    const box = h('div', { class: 'ask', role: 'group', 'aria-label': 'Was this right?' });
    const tell = right => {
      const chips = [...box.querySelectorAll('button')], again = () => { chips.forEach(o => o.disabled = false); this.app.check(); this.app.announce('Your answer has not arrived: please try again.'); };
      chips.forEach(o => o.disabled = true);
      this.app.send({ kind: 'feedback', id: this.id, right });
      this.telling = setTimeout(again, 10000);
    };
    const chip = (text, go) => h('button', { class: 'chip', type: 'button', onclick: go }, text);
    const choose = () => {
      box.replaceChildren(h('span', {}, 'What is it?'), ...a.ask.map(([key, name]) => chip(name, () => tell(key))));
      box.querySelector('button').focus();
    };
    if (a.verdict === 'unsure') box.append(h('span', {}, 'Do you know it?'), ...a.ask.map(([key, name]) => chip(name, () => tell(key))));
    else box.append(h('span', {}, 'Was this right?'), chip('Yes', () => tell(a.verdict === a.label ? a.label : 'none')), chip('No', choose));
    box.append(h('span', { class: 'note' }, this.app.facts.feedback));
    this.box = box;
    return box;
  }
  noted(m) {
    clearTimeout(this.telling);
    this.box?.replaceChildren(h('span', { class: m.ok ? 'thanks' : '' }, m.sentence));
    this.app.announce(m.sentence);
  }
}

function heat(cam, words) {
  const c = h('canvas', { width: cam[0].length, height: cam.length, role: 'img', 'aria-label': words });
  const g = c.getContext('2d'), d = g.createImageData(c.width, c.height);
  cam.flat().forEach((v, i) => d.data.set([255, 176 - 150 * v, 20, 235 * Math.max(0, v - .15) / .85], 4 * i));
  g.putImageData(d, 0, 0);
  const big = h('canvas', { width: 32 * c.width, height: 32 * c.height, role: 'img', 'aria-label': words });
  const b = big.getContext('2d');
  b.imageSmoothingQuality = 'high';
  b.drawImage(c, 0, 0, big.width, big.height);
  return big;
}

function paw() {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 48 44'); svg.setAttribute('class', 'paw'); svg.setAttribute('aria-hidden', 'true');
  const blot = ([x, y, rx, ry, turn]) => {
    const e = document.createElementNS('http://www.w3.org/2000/svg', 'ellipse');
    for (const [k, v] of Object.entries({ cx: x, cy: y, rx, ry, transform: `rotate(${turn} ${x} ${y})` })) e.setAttribute(k, v);
    return e;
  };
  svg.append(...[[24, 31, 13, 11, 0], [7, 20, 4.4, 6, -28], [17.5, 10, 4.8, 6.8, -9], [30.5, 10, 4.8, 6.8, 9], [41, 20, 4.4, 6, 28]].map(blot));
  return svg;
}

// ---- The page ----

class App {
  constructor(facts, el) {
    this.facts = facts; this.next = 1; this.awake = new Promise(done => this.wake = done); this.cards = new Map(); this.line = Promise.resolve();
    this.stopped = new AbortController();
    this.live = h('div', { class: 'unseen', 'aria-live': 'polite', role: 'status' });
    this.alert = h('div', { class: 'alert', role: 'alert', hidden: true });
    this.list = h('div', { class: 'list' });
    this.answers = h('section', { class: 'answers', 'aria-label': 'Answers', hidden: true },
      h('div', { class: 'top' }, h('h2', {}, 'Answers'), h('button', { class: 'link', type: 'button', onclick: () => this.clear() }, 'Clear')), this.list);
    el.classList.add('bears');
    el.append(h('div', { class: 'page' }, this.header(), h('main', {}, this.drop(), this.samples(), this.alert, this.answers), this.footer(), this.live));
    const page = { signal: this.stopped.signal };
    addEventListener('paste', e => this.take(e.clipboardData?.files), page);
    addEventListener('dragover', e => e.preventDefault(), page);
    addEventListener('drop', e => { e.preventDefault(); this.over(false); this.take(e.dataTransfer?.files); }, page);
    addEventListener('visibilitychange', () => document.hidden || this.check(), { ...page, capture: true });
    this.pulse = setInterval(() => document.hidden || this.check(), 15000);
    setTimeout(() => this.model || this.gone || this.asleep(), 60000);
    el.dataset.ready = 'true';
  }
  connect(model) {
    this.model = model;
    model.on('msg:custom', m => this.hear(m));
    this.wake();
    return () => this.close();
  }
  asleep() {
    this.gone = true; this.lost();
    this.warn('This page could not reach its classifier. Your pictures are still on your device.', true);
  }
  close() { this.stopped.abort(); clearInterval(this.pulse); }

  header() { return h('header', {}, paw(), h('h1', {}, this.facts.title), h('p', { class: 'lead' }, this.facts.lead)); }
  drop() {
    const pick = extra => {
      const input = h('input', { type: 'file', accept: 'image/*', class: 'unseen', tabindex: '-1', 'aria-hidden': 'true', ...extra });
      input.addEventListener('change', () => { this.take(input.files); input.value = ''; });
      return input;
    };
    const touch = matchMedia('(pointer: coarse)').matches;
    const choose = pick({ multiple: true, id: 'bears-choose' }), camera = pick({ capture: 'environment' });
    this.zone = h('section', { class: 'drop', 'aria-label': 'Choose pictures' },
      h('div', { class: 'row' },
        h('button', { class: 'solid', type: 'button', onclick: () => choose.click() }, 'Choose pictures'),
        touch ? h('button', { class: 'ghost', type: 'button', onclick: () => camera.click() }, 'Take a photo') : null),
      h('p', { class: 'hint' }, (touch ? '' : 'Or drop them anywhere, or paste one. ') + this.facts.hint), choose, camera);
    this.zone.addEventListener('dragenter', () => this.over(true));
    this.zone.addEventListener('dragleave', e => this.zone.contains(e.relatedTarget) || this.over(false));
    return this.zone;
  }
  over(on) { this.zone.classList.toggle('over', on); }
  samples() {
    const one = s => h('li', {}, h('button', { type: 'button', 'aria-label': `Try the sample: ${s.words}`, onclick: () => this.sample(s) }, h('img', { src: s.src, alt: '' })));
    return this.facts.samples.length ? h('section', { class: 'samples', 'aria-label': 'Samples' },
      h('span', { class: 'say' }, 'No picture at hand? Try one of ours:'), h('ul', {}, ...this.facts.samples.map(one))) : null;
  }
  footer() {
    const rows = this.facts.about.flatMap(([k, v]) => [h('dt', {}, k), h('dd', {}, v)]);
    return h('footer', {}, h('h2', {}, 'About the model'), h('dl', {}, ...rows));
  }

  async sample(s) {
    const blob = await (await fetch(s.src)).blob();
    this.take([new File([blob], s.name, { type: blob.type })]);
  }
  take(files) {
    const all = [...(files ?? [])], some = all.slice(0, this.facts.at_once);
    if (!some.length) return;
    const cards = some.map(f => new Card(this, f));
    this.list.prepend(...cards.map(c => c.el));
    this.answers.hidden = false;
    for (const c of cards) { this.cards.set(c.id, c); this.line = this.line.then(() => this.dispatch(c)); }
    if (all.length > some.length && !this.gone) this.warn(`${all.length} pictures are many at once: these are the first ${some.length}.`);
    else this.calm();
    this.forget();
    cards[0].el.scrollIntoView({ block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
  }
  async dispatch(card) {
    try {
      const small = await smaller(card.file, this.facts);
      if (small.size > this.facts.limit) return card.fail(`This file has ${mb(small.size)}; at most ${mb(this.facts.limit)} can be sent. Save it as a JPEG, or make it smaller.`);
      const bytes = await small.arrayBuffer();
      card.say('Looking…');
      if (this.gone) return this.lost();
      await this.connected_soon(card);
      if (card.state !== 'busy') return;
      card.timer = setTimeout(() => this.late(card), 3000);
      card.sent = performance.now();
      card.post = () => this.send({ kind: 'image', id: card.id, name: card.file.name, type: small.type }, [bytes.slice(0)]);
      card.post();
    } catch (e) {
      console.error(e);
      if (card.state === 'busy') card.fail('This file could not be read on your device.', () => this.again(card));
    }
  }
  // The page can be used before Python has answered its first call: what is chosen early waits here
  async connected_soon(card) {
    const soon = () => new Promise(done => setTimeout(done, 3000));
    while (!this.model && card.state === 'busy') {
      await Promise.race([this.awake, soon()]);
      if (this.model) return;
      card.say('Waking up…');
      await this.check();  // a page that is gone ends its cards; one that is only slow goes on
    }
  }
  again(card) {
    const next = new Card(this, card.file);
    card.el.replaceWith(next.el);
    this.drop_card(card); this.cards.set(next.id, next);
    this.line = this.line.then(() => this.dispatch(next));
  }
  async late(card) {
    if (card.state !== 'busy') return;
    const state = await this.check(), lost = 'No answer came back: the connection was cut.';
    if (card.state !== 'busy') return;
    if (state === 'away' || this.newer(card) || (card.waited = (card.waited ?? 0) + 1) > this.facts.patience) card.fail(lost, () => this.again(card));
    else {
      if ([3, 8, 16].includes(card.waited)) card.post();  // a message can be lost without a trace; the first answer counts, and a second is ignored
      card.say('Still looking…'); card.timer = setTimeout(() => this.late(card), 3000);
    }
  }
  // A connection that is younger than the message, or that stays away: the message went down with the old one
  newer(card) {
    if (this.connected === undefined) return false;
    if (this.connected === null) return (card.unconnected = (card.unconnected ?? 0) + 1) > 3;
    card.unconnected = 0;
    return this.connected * 1000 < performance.now() - card.sent;
  }
  hear(m) {
    const card = this.cards.get(m.id);
    if (m.kind === 'answer') card?.answer(m);
    if (m.kind === 'noted') card?.noted(m);
  }
  send(m, buffers) { this.model.send(m, undefined, buffers); }

  clear() { [...this.cards.values()].forEach(c => this.drop_card(c)); this.answers.hidden = true; this.zone.querySelector('button').focus(); }
  drop_card(c) { c.end('gone'); c.el.remove(); URL.revokeObjectURL(c.url); this.cards.delete(c.id); }
  forget() { while (this.cards.size > this.facts.keep) this.drop_card(this.cards.values().next().value); }
  announce(words) { this.live.textContent = words; }

  // ---- Is the classifier still there? The server is asked, since a closed socket looks like silence ----
  async check() {
    const id = kernelId();
    if (this.gone) return this.lost();
    if (!id) return 'here';
    let state = 'away';
    try {
      const r = await fetch(`${id.base}alive/${id.kernel}`, { cache: 'no-store' });
      state = r.status === 410 ? 'gone' : 'here';
      this.connected = r.ok ? (await r.json()).connected : undefined;
    } catch { state = 'away'; }
    if (state === 'gone') { this.gone = true; this.lost(); this.warn('This page has been idle for too long or its classifier has stopped. Your pictures are still on your device.', true); }
    else if (state === 'away') this.warn('The connection is lost. Trying again…');
    else if (this.state === 'away') this.calm();
    return this.state = state;
  }
  // Nothing that still waits will be answered
  lost() {
    this.cards.forEach(c => c.state === 'busy' && c.fail('This picture was not answered: the page has lost its classifier. Reload the page.'));
    return 'gone';
  }
  warn(words, reload) {
    this.alert.hidden = false;
    this.alert.replaceChildren(h('span', {}, words), ...(reload ? [h('button', { class: 'solid', type: 'button', onclick: () => location.reload() }, 'Reload')] : []));
  }
  calm() { if (!this.gone) this.alert.hidden = true; }
}

function kernelId() {
  const el = document.getElementById('jupyter-config-data');
  try { const c = JSON.parse(el.textContent); return c.kernelId ? { kernel: c.kernelId, base: c.baseUrl } : null; }
  catch { return null; }  // not Voila: a notebook tells about its kernel itself
}

// Voila's page brings the facts along, so that it can be used while the widgets are still loading
const early = document.getElementById('bears-facts');
if (early && !window.bears) window.bears = new App(JSON.parse(early.textContent), document.getElementById('bears-page'));

export default {
  // Before Voila draws: on a busy machine it draws too early, finds no model ("widget model not found") and never tries again
  initialize({ model }) { if (early) return window.bears.connect(model); },
  render({ model, el }) { if (!early) return new App(model.get('facts'), el).connect(model); },
};
