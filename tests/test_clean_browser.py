"The reviewer in a real browser, served by Voila: filter, decide by mouse and key, reload, undo, apply, restore"
import pytest
pytest.importorskip('playwright', reason='the browser tests need playwright')
pytest.importorskip('pandas', reason='a ranking is a pandas table')
import serving
from reviewing import Colours, lab, page, tree
from bear_classifier.clean import rank_images
from bear_classifier.journal import Journal
from bear_classifier.practice import practice_dataset
from bear_classifier.review import Review, Reviewer

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not serving.CHROMIUM, reason='no Chromium on this machine')]
READY = '.bear-review[data-ready=true] .card'

@pytest.fixture(scope='module')
def root(tmp_path_factory): return practice_dataset(tmp_path_factory.mktemp('review')/'bears', n_per_class=100, size=128)

def visit(browser, url):
    p = browser.new_page(viewport=dict(width=1280, height=900))
    p.errors, p.asked = [], []
    p.on('pageerror', lambda e: p.errors.append(str(e))); p.on('request', lambda r: p.asked.append(r.url))
    p.goto(url); p.wait_for_selector(READY, timeout=60_000)
    return p

def said(p, words): p.wait_for_function("w => document.querySelector('.bear-review .say').textContent.includes(w)", arg=words)
def decided(p, n): p.wait_for_function("n => document.querySelector('.bear-review .told').textContent.startsWith(n + ' of')", arg=n)
def choose(p, key, value, n):
    p.select_option(f'[data-filter={key}]', value)
    p.wait_for_function("n => document.querySelector('.bear-review .where').textContent.endsWith(n)", arg=n)

def test_a_whole_review(root, tmp_path):
    before, ranking = tree(root), rank_images(root, Colours())
    with page(tmp_path, root, ranking) as url, serving.chromium() as browser:
        p = visit(browser, url)
        assert p.locator('.card').count() == 24 and '300 images' in p.inner_text('.where')
        assert p.locator('.card .guess').first.inner_text().startswith('model: ')
        choose(p, 'label', 'teddy', '100 images')
        assert set(p.locator('.card .label').all_inner_texts()) == {'teddy'}
        first, second, third, fourth = (p.locator('.card').nth(i).get_attribute('data-id') for i in range(4))
        p.locator('.card').nth(0).locator('[data-act=drop]').click(); decided(p, 1)
        p.locator('.card').nth(1).focus()
        p.keyboard.press('1'); decided(p, 2)          # black, the first class
        p.keyboard.press('k'); decided(p, 3)          # the third card, for the second is done
        p.keyboard.press('c'); p.keyboard.type('Teddy'); p.keyboard.press('Enter'); said(p, 'would be the same folder')
        p.locator('.card').nth(3).focus(); p.keyboard.press('c'); p.keyboard.type('polar bear'); p.keyboard.press('Enter'); decided(p, 4)
        p.keyboard.press('Enter'); p.wait_for_selector('.large .bars'); p.screenshot(path=_picture('review-large.png')); p.keyboard.press('Escape')
        assert {k: (d.do, d.to) for k, d in Journal(root/'review.jsonl').state.items()} == {first: ('drop', ''), second: ('label', 'black'), third: ('keep', ''), fourth: ('label', 'polar bear')}
        p.screenshot(path=_picture('review.png'))

        p.reload(); p.wait_for_selector(READY, timeout=60_000); decided(p, 4)
        choose(p, 'state', 'decided', '4 images')
        assert set(p.locator('.card .mark').all_inner_texts()) == {'✕ dropped', '→ black', '✓ kept', '→ polar bear'}
        p.keyboard.press('Escape'); p.locator('.card').first.focus()
        for n in (3, 2, 1, 0): p.keyboard.press('u'); decided(p, n)
        p.keyboard.press('u'); said(p, 'Nothing to take back')
        for n in (1, 2, 3, 4): p.keyboard.press('r'); decided(p, n)

        p.click('[data-do=plan]'); p.wait_for_selector('.sheet table')
        assert p.locator('.sheet tbody tr').count() == 3
        p.screenshot(path=_picture('review-plan.png'))
        assert tree(root) == before
        p.click('[data-do=apply]'); said(p, '3 images moved')
        assert not (root/first).exists() and sorted(tree(root).values()) == sorted(before.values()) and len(list((root/'polar bear').iterdir())) == 1
        choose(p, 'state', 'drop', '1 image')
        assert p.locator('.card .label').inner_text() == 'dropped' and p.locator('.card img').get_attribute('src').startswith('data:image/jpeg')
        p.click('[data-do=plan]'); p.click('[data-do=restore]'); said(p, '3 images brought back')
        assert tree(root) == before
        assert p.errors == [] and not [u for u in p.asked if not u.startswith((url, 'data:', 'blob:')) and 'fontawesome' not in u]

FAKE = """async source => {
  const { default: widget } = await import(URL.createObjectURL(new Blob([source], { type: 'text/javascript' })));
  let hear; window.sent = []; window.say = m => hear(m);
  const counts = { classes: ['black', 'teddy'], reasons: {}, total: 20, decided: 0, keep: 0, label: 0, drop: 0, undo: false, redo: false };
  const card = id => ({ id, name: id, label: 'black', guess: '', confidence: 0, reason: '', copies: 0, do: '', to: '', who: '', src: '' });
  window.page = (page, pages, ...ids) => say({ kind: 'page', page, pages, found: 20, told: '', counts, cards: ids.map(card) });
  window.look = id => say({ kind: 'look', card: card(id), src: '', map: '', bars: [], near: [] });
  window.changed = (id, act) => say({ kind: 'changed', cards: [{ ...card(id), do: act }], words: 'Done', counts });
  const model = { get: () => ({ title: 'x', size: 2, reasons: {}, states: { all: 'all', open: 'undecided' } }), on: (_, f) => { hear = f; }, off() {}, send: m => sent.push(m) };
  widget.render({ model, el: document.body });
}"""

@pytest.fixture
def bare():
    "The page alone: what it is told comes when a test says so"
    from bear_classifier.review import Reviewer
    with serving.chromium() as browser:
        p = browser.new_page(); p.evaluate(FAKE, Reviewer._esm); p.evaluate("page(0, 2, 'a', 'b')")
        yield p

def keys(p, *ks):
    for k in ks: p.keyboard.press(k)
def asked(p, kind): return p.evaluate("k => sent.filter(o => o.kind === k)", kind)
def acts(p): return [(*o['ids'], o['do']) for o in asked(p, 'decide')]

def test_a_key_decides_what_is_shown(bare):
    p = bare
    p.locator('.card').nth(1).focus(); keys(p, 'k', 'd')             # the second comes before the next page
    assert acts(p) == [('b', 'keep')] and [o['page'] for o in asked(p, 'page')] == [0, 1]
    p.evaluate("page(1, 2, 'c', 'd')"); keys(p, 'Enter'); p.evaluate("look('c')")
    keys(p, 'k', 'd'); assert acts(p)[1:] == [('c', 'keep')]          # the first image is shown still
    p.evaluate("look('d')"); keys(p, 'd'); assert acts(p)[2:] == [('d', 'drop')]
    keys(p, 'Escape'); p.click('[data-do=keys]'); keys(p, 'd', '1'); assert len(acts(p)) == 3

def test_in_the_large_view_a_new_page_is_looked_at_before_it_is_decided(bare):
    p = bare
    p.locator('.card').nth(1).focus(); keys(p, 'Enter'); p.evaluate("look('b')"); keys(p, 'k')
    p.evaluate("page(1, 2, 'c', 'd')"); keys(p, 'd')
    assert acts(p) == [('b', 'keep')] and asked(p, 'look')[-1]['id'] == 'c'
    p.evaluate("look('c')"); keys(p, 'd'); assert acts(p)[1:] == [('c', 'drop')]
    p.evaluate("say({ kind: 'said', about: 'look', words: 'does not open', bad: true })")
    assert p.locator('.over').is_hidden()

def test_no_page_of_undecided_images_is_skipped(bare):
    p = bare
    p.select_option('[data-filter=state]', 'open'); p.evaluate("page(0, 2, 'a', 'b')")
    p.locator('.card').first.focus(); keys(p, 'k', 'k'); assert asked(p, 'page')[-1]['page'] == 0
    p.evaluate("page(0, 1, 'c', 'd')"); assert p.locator('[data-do=next]').is_disabled()
    keys(p, 'k'); p.evaluate("changed('c', 'keep')"); p.click('[data-do=next]'); assert asked(p, 'page')[-1]['page'] == 0

def test_a_ranking_does_not_turn_a_page_that_is_being_decided(bare):
    p = bare
    p.locator('.card').first.focus(); keys(p, 'k'); p.evaluate("changed('a', 'keep')"); p.evaluate("say({ kind: 'ranked' })")
    assert len(asked(p, 'page')) == 1
    p.click('[data-do=ranked]'); assert len(asked(p, 'page')) == 2 and p.locator('[data-do=ranked]').count() == 0
    p.evaluate("page(0, 2, 'c', 'd')"); p.evaluate("say({ kind: 'ranked' })"); assert len(asked(p, 'page')) == 3

def test_in_jupyterlab_a_key_decides_and_does_nothing_else(tmp_path):
    "JupyterLab has keys of its own: D D deletes a cell, 1 makes it a heading"
    pytest.importorskip('jupyterlab', reason='JupyterLab comes with the dev extra')
    before = tree(practice_dataset(tmp_path/'bears', n_per_class=10, size=96))
    code = "from bear_classifier import BearClassifier\nfrom bear_classifier.review import Reviewer\nReviewer('bears', BearClassifier.practice(), who='ana')"
    with lab(tmp_path, code) as url, serving.chromium() as browser:
        p = browser.new_page(viewport=dict(width=1300, height=900))
        p.goto(url); p.click('.jp-Notebook .jp-Cell .cm-content', timeout=60_000); p.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status=idle]', timeout=60_000)
        p.keyboard.press('Shift+Enter'); p.wait_for_selector('.bear-review .card .guess:not(:empty)', timeout=60_000)
        cells = p.locator('.jp-Notebook .jp-Cell').count()
        p.locator('.card').first.focus()
        for n, key in enumerate('dd1', 1): p.keyboard.press(key); decided(p, n)
        p.keyboard.press('u'); decided(p, 2)
        p.screenshot(path=_picture('review-lab.png'))
        assert p.locator('.jp-Notebook .jp-Cell').count() == cells and p.locator('.jp-Notebook .jp-MarkdownCell').count() == 0
        assert [d.do for d in Journal(tmp_path/'bears'/'review.jsonl').state.values()] == ['drop', 'drop'] and tree(tmp_path/'bears') == before

def _picture(name): serving.PICTURES.mkdir(exist_ok=True); return serving.PICTURES/name

def test_only_the_page_is_opened(root):
    r = Review(root)
    r.page(page=2, size=20)
    assert len(r._thumbs) == 20 and len(r.items) == 300

def test_five_thousand_images_cost_no_more_pictures(tmp_path):
    for i in range(5000):
        p = tmp_path/('black', 'teddy')[i % 2]/f'{i:05}.jpg'; p.parent.mkdir(exist_ok=True); p.write_bytes(b'not opened before its page')
    w = Reviewer(tmp_path)
    got = w.answer(dict(kind='page', page=0, size=24))
    assert got['pages'] == 209 and len(got['cards']) == 24 and len(w.review._thumbs) == 24 and got['cards'][0]['src'] == ''

def test_messages_of_any_kind_do_no_harm(root):
    w, heard, before = Reviewer(root), [], tree(root)
    state = dict(w.review.journal.state)
    w.send = heard.append
    for m in [{}, {'kind': None}, {'kind': 'page', 'size': 10**9}, {'kind': 'page', 'page': -5}, {'kind': 'page', 'page': 'x'}, {'kind': 'look', 'id': '../x'}, {'kind': 'decide'},
              {'kind': 'decide', 'ids': [], 'do': 'drop'}, {'kind': 'decide', 'ids': ['black/none.jpg'], 'do': 'drop'}, {'kind': 'decide', 'ids': [w.review.items[0].origin], 'do': 'burn'},
              {'kind': 'decide', 'ids': [w.review.items[0].origin], 'do': 'label', 'to': '../x'}, {'kind': 'page', 'state': 'nonsense'}]: w._hear(None, m, [])
    assert len(heard) == 12 and all(o['kind'] in ('said', 'page') for o in heard) and tree(root) == before and Journal(root/'review.jsonl').state == state
