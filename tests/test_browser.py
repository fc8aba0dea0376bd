"The dashboard in a real browser: a whole visit, by mouse and by keyboard, and what happens when things break"
import io, json, os, sqlite3
import numpy as np, pytest
from PIL import Image

pytest.importorskip('playwright', reason='the browser tests need playwright')
import serving
from serving import DONE, PICTURES, READY, classify
from bear_classifier.practice import draw_bear

pytestmark = [pytest.mark.skipif(not serving.CHROMIUM, reason='no Chromium on this machine')]
WORDS = ('Black bear', 'Grizzly', 'Teddy bear', 'Not sure', "This doesn't look like any bear I know")

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('site')
    with serving.server(tmp, feedback=str(tmp/'feedback.sqlite'), keep_images=True, warm=2, cap=8, interval=2) as s:
        s.feedback = tmp/'feedback.sqlite'
        yield s

@pytest.fixture(scope='module')
def browser():
    with serving.chromium() as b: yield b

@pytest.fixture
def open_page(browser, site):
    "Open pages that note every address they ask for and every error"
    contexts = []
    def open_page(url='', ready=True, init=None, **kw):
        c = browser.new_context(**kw); contexts.append(c)
        page = c.new_page(); page.asked, page.errors, page.choosers = [], [], []
        page.on('request', lambda r: page.asked.append(r.url))
        page.on('pageerror', lambda e: page.errors.append(str(e)))
        page.on('filechooser', lambda c: page.choosers.append(c))  # from the start: asking late races with the key
        if init: init(page)
        page.goto(site.url + url)
        if ready: page.wait_for_selector(READY, timeout=60_000)
        return page
    yield open_page
    for c in contexts: c.close()

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp('files')
    for k in ('grizzly', 'black', 'teddy'): draw_bear(k, 7, 300).save(d/f'{k}.jpg')
    (d/'notes.jpg').write_text('dear diary, today I met a bear')
    (d/'cut.jpg').write_bytes((d/'teddy.jpg').read_bytes()[:1500])
    (d/'noise.bin').write_bytes(os.urandom(11*2**20))
    return d

def answers(site):
    with sqlite3.connect(site.feedback) as db: return db.execute('select verdict, label, correction, image from feedback order by id').fetchall()

def _axe(): return pytest.importorskip('axe_playwright_python.sync_playwright', reason='the accessibility rules come with axe-playwright-python').Axe()

def test_visit(open_page, files):
    page = open_page(viewport=dict(width=1200, height=900))
    said = classify(page, [files/'grizzly.jpg'])
    assert said[0].startswith(WORDS)
    assert page.locator('.card').first.locator('.bars li').count() == 3
    said = classify(page, [files/'teddy.jpg', files/'notes.jpg', files/'black.jpg', files/'cut.jpg'])
    assert said[1] == 'This is text, not an image' and said[3].startswith('The file is damaged') and said[4].startswith(WORDS)
    assert [page.locator('.card').nth(i).get_attribute('aria-label') for i in range(5)] == ['teddy.jpg', 'notes.jpg', 'black.jpg', 'cut.jpg', 'grizzly.jpg']
    page.locator('.switch').first.click()
    assert page.locator('.card').first.locator('.frame canvas').get_attribute('aria-label').startswith('Map over the picture')
    PICTURES.mkdir(exist_ok=True)
    page.wait_for_timeout(600)
    page.screenshot(path=PICTURES/'visit.png', full_page=True)
    assert not page.errors
    outside = [u for u in page.asked if not u.startswith(('http://127.0.0.1', 'blob:', 'data:'))]
    assert not outside and page.url.count('?') == 0

def test_practice_bears_are_named(open_page, files):
    page = open_page()
    assert classify(page, [files/f'{k}.jpg' for k in ('grizzly', 'black', 'teddy')]) == ['Grizzly', 'Black bear', 'Teddy bear']

def test_samples_and_answers_by_keyboard(open_page, site):
    page = open_page()
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.textContent') == 'Choose pictures'
    page.keyboard.press('Enter')
    for _ in range(100):
        if page.choosers: break
        page.wait_for_timeout(50)
    assert page.choosers[0].is_multiple()
    page.choosers[0].set_files([])
    for _ in range(3): page.keyboard.press('Tab')
    assert 'a teddy bear' in page.evaluate('document.activeElement.getAttribute("aria-label")')
    page.keyboard.press('Enter')
    page.wait_for_function(DONE, arg=1)
    page.get_by_role('switch', name='Where it looked').focus(); page.keyboard.press('Space')
    assert page.get_by_role('switch').get_attribute('aria-checked') == 'true'
    page.keyboard.press('Tab'); page.keyboard.press('Enter')
    page.wait_for_selector('.thanks')
    assert page.locator('[aria-live]').first.inner_text().startswith('Thank you')
    assert len(answers(site)[-1][3]) > 1000

def test_wrong_answers_are_corrected(open_page, site, files):
    page = open_page()
    classify(page, [files/'teddy.jpg'])
    card = page.locator('.card')
    if card.get_by_role('button', name='No').count(): card.get_by_role('button', name='No', exact=True).click()
    card.get_by_role('button', name='None of these').click()
    page.wait_for_selector('.thanks')
    assert answers(site)[-1][2] == 'none'
    assert 'picture' in page.locator('footer').inner_text().lower()

def test_a_screen_reader_hears_the_verdict(open_page, files):
    page = open_page()
    heard = 'window.heard = []; new MutationObserver(() => heard.push(document.querySelector("[aria-live]").textContent)).observe(document.querySelector("[aria-live]"), {childList: true})'
    page.evaluate(heard)
    said = classify(page, [files/'black.jpg', files/'notes.jpg'])
    assert [o.split(': ')[0] for o in page.evaluate('heard')] == ['black.jpg', 'notes.jpg'] and said[0] in page.evaluate('heard[0]')
    assert page.locator('.card .frame img').first.get_attribute('alt') == 'Your picture: black.jpg'
    assert page.locator('html').get_attribute('lang') == 'en' and page.locator('main').count() == 1 and page.locator('h1').count() == 1

def test_drop_and_paste(open_page):
    page = open_page()
    hand = '''kind => { const c = document.createElement('canvas'); c.width = c.height = 80; c.getContext('2d').fillRect(9, 9, 50, 40);
        return new Promise(done => c.toBlob(b => { const d = new DataTransfer(); d.items.add(new File([b], kind + '.png', {type: 'image/png'}));
        const e = kind === 'drop' ? new DragEvent('drop', {dataTransfer: d, bubbles: true, cancelable: true}) : new ClipboardEvent('paste', {clipboardData: d, bubbles: true});
        document.querySelector('.drop').dispatchEvent(e); done(); })); }'''
    for i, kind in enumerate(('drop', 'paste')): page.evaluate(hand, kind); page.wait_for_function(DONE, arg=i+1)
    assert {o.get_attribute('aria-label') for o in page.locator('.card').all()} == {'drop.png', 'paste.png'}

def phone_photo(path):
    "Sixteen megapixels of a drawn bear, stored lying on its side as a phone does"
    im = draw_bear('grizzly', 3, 512).resize((4608, 3456))
    grain = np.random.default_rng(0).integers(0, 24, (3456, 4608, 1), dtype=np.uint8)
    exif = Image.Exif(); exif[0x0112] = 6
    Image.fromarray(np.asarray(im)//2 + 40 + grain).transpose(Image.Transpose.ROTATE_90).save(path, quality=94, exif=exif)
    return path

def test_a_large_photo_is_made_smaller_and_stays_upright(open_page, site, tmp_path):
    photo = phone_photo(tmp_path/'phone.jpg')
    sent = []
    page = open_page(init=lambda p: p.on('websocket', lambda ws: ws.on('framesent', lambda data: sent.append(len(data)))))
    classify(page, [photo])
    assert photo.stat().st_size > 5*2**20 and max(sent) < 2*2**20
    for name in ('Yes', 'Grizzly'):
        if page.get_by_role('button', name=name, exact=True).count(): page.get_by_role('button', name=name, exact=True).click(); break
    page.wait_for_selector('.thanks')
    kept = Image.open(io.BytesIO(answers(site)[-1][3]))
    with Image.open(photo) as im: want = im.transpose(Image.Transpose.ROTATE_270).convert('L').resize((40, 30))
    assert kept.size == (1600, 1200) and not kept.getexif().get(0x0112)
    assert np.abs(np.asarray(kept.convert('L').resize((40, 30)), float) - np.asarray(want, float)).mean() < 4
    size = page.locator('.card .frame img').first.evaluate('o => [o.naturalWidth, o.naturalHeight]')
    assert size[0] > size[1]

def test_past_the_limit_there_is_a_sentence(open_page, files):
    sent = []
    page = open_page(init=lambda p: p.on('websocket', lambda ws: ws.on('framesent', lambda data: sent.append(len(data)))))
    said = classify(page, [files/'noise.bin'])
    assert said == ['This file has 11.0 MB; at most 10.0 MB can be sent. Save it as a JPEG, or make it smaller.'] and max(sent, default=0) < 2**20
    assert '10 MB' in page.locator('.hint').inner_text()

def test_nothing_and_a_hundred_megabytes(open_page, tmp_path):
    "An empty file, 100 MB of noise, a zip that is called a photo, and a sound picture of 100 MB, which the browser makes smaller"
    (tmp_path/'empty.jpg').touch(); (tmp_path/'noise.jpg').write_bytes(os.urandom(100*2**20)); (tmp_path/'zip.jpg').write_bytes(b'PK\x03\x04' + bytes(500))
    draw_bear('grizzly', 3, 512).resize((6000, 5830)).save(tmp_path/'sound.bmp')
    assert (tmp_path/'sound.bmp').stat().st_size > 100*2**20
    sent = []
    page = open_page(init=lambda p: p.on('websocket', lambda ws: ws.on('framesent', lambda data: sent.append(len(data)))))
    said = classify(page, [tmp_path/f for f in ('empty.jpg', 'noise.jpg', 'zip.jpg', 'sound.bmp')])
    assert said[0] == 'The file is empty' and said[1].startswith('This file has 100.0 MB; at most 10.0 MB can be sent') and said[2].startswith('This is a zip archive') and said[3].startswith(WORDS)
    assert max(sent) < 2*2**20 and not page.errors and classify(page, [tmp_path/'empty.jpg'])[0] == 'The file is empty'

def test_a_cut_connection_shows_no_old_answer(open_page, files):
    "What a message past the socket's limit does: the socket closes with 1009 and the message is gone"
    cut = []
    def init(page):
        def handler(ws):
            up = ws.connect_to_server()
            def message(m):
                if isinstance(m, bytes) and b'"image"' in m and cut == ['now']: cut.append('done'); ws.close(code=1009, reason='message too big'); return
                up.send(m)
            ws.on_message(message)
        page.route_web_socket('**/channels*', handler)
    page = open_page(init=init)
    first = classify(page, [files/'teddy.jpg'])[0]
    cut.append('now')
    page.set_input_files('#bears-choose', [files/'grizzly.jpg'])
    page.wait_for_selector('.card.busy')
    assert page.locator('.card').first.locator('.bars').count() == 0
    page.wait_for_selector('.card.bad', timeout=60_000)
    card = page.locator('.card').first
    assert card.locator('.verdict').inner_text().startswith('No answer came back') and card.locator('.bars').count() == 0
    card.get_by_role('button', name='Try again').click()
    page.wait_for_function(DONE, arg=2, timeout=60_000)
    assert page.locator('.card').first.get_attribute('data-state') == 'done' and page.locator('.card').nth(1).locator('.verdict').inner_text() == first

def test_a_dead_kernel_says_so_and_offers_to_reload(open_page, site, files):
    before = {p.pid for p in site.kernels()}
    page = open_page()
    config = json.loads(page.locator('#jupyter-config-data').text_content())
    mine = [p for p in site.kernels() if config['kernelId'] in ' '.join(p.cmdline())]
    assert len(mine) == 1 and before
    classify(page, [files/'teddy.jpg'])
    mine[0].kill()
    yes = page.get_by_role('button', name='Yes')
    yes.click(); assert yes.is_disabled()
    page.wait_for_function("() => [...document.querySelectorAll('.ask button')].every(o => !o.disabled)", timeout=30_000)  # a correction that never arrived can be sent again
    page.get_by_role('button', name='Clear').click()
    page.set_input_files('#bears-choose', [files/'teddy.jpg'])
    page.get_by_role('alert').get_by_role('button', name='Reload').wait_for(timeout=30_000)
    page.wait_for_function(DONE, arg=1)
    assert 'Traceback' not in page.content() and page.locator('.card').get_attribute('data-state') == 'bad'
    page.set_input_files('#bears-choose', [files/'teddy.jpg']*30)  # more than are taken at once, on a page that answers no more
    page.wait_for_function("() => document.querySelectorAll('.card').length > 20 && !document.querySelector('.card.busy')", timeout=30_000)
    assert all('lost its classifier' in o for o in page.locator('.card .verdict').all_inner_texts())
    page.get_by_role('button', name='Reload').click()
    page.wait_for_selector('.card', state='detached'); page.wait_for_selector(READY, timeout=60_000)
    assert classify(page, [files/'teddy.jpg'])[0].startswith(WORDS)

def test_names_are_only_names(open_page, files):
    page = open_page()
    name = '<img src=x onerror="window.hacked=1">"\'../../🐻.jpg'
    page.set_input_files('#bears-choose', dict(name=name, mimeType='image/jpeg', buffer=(files/'teddy.jpg').read_bytes()))
    page.wait_for_function(DONE, arg=1)
    assert page.evaluate('window.hacked') is None and page.locator('.card .file img').count() == 0
    assert page.locator('.file').inner_text().endswith('🐻.jpg')

def test_many_at_once(open_page, files):
    page = open_page()
    data = (files/'teddy.jpg').read_bytes()
    page.set_input_files('#bears-choose', [dict(name=f'{i}.jpg', mimeType='image/jpeg', buffer=data) for i in range(30)])
    page.wait_for_function(DONE, arg=24, timeout=60_000)
    assert page.locator('.card').count() == 24 and '30 pictures are many' in page.get_by_role('alert').inner_text()
    page.get_by_role('button', name='Clear').click()
    assert page.locator('.card').count() == 0

@pytest.mark.parametrize('width', (1200, 390))
@pytest.mark.parametrize('scheme', ('light', 'dark'))
def test_accessible(open_page, files, scheme, width):
    axe = _axe()
    page = open_page(viewport=dict(width=width, height=850), color_scheme=scheme, has_touch=width < 500, is_mobile=width < 500, reduced_motion='reduce')
    serious = lambda: [(v['id'], [n['html'][:120] for n in v['nodes']][:3]) for v in axe.run(page).response['violations'] if v['impact'] in ('serious', 'critical')]
    assert serious() == []
    classify(page, [files/'grizzly.jpg', files/'notes.jpg', files/'black.jpg'])
    page.locator('.switch').first.click()
    no = page.get_by_role('button', name='No', exact=True)
    if no.count(): no.first.click()
    assert serious() == []
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES/f'visit-{scheme}-{width}.png', full_page=True)

def test_pages_without_a_kernel_are_accessible(open_page, site):
    axe = _axe()
    page = open_page('nowhere', ready=False)
    assert [v['id'] for v in axe.run(page).response['violations']] == [] and 'nothing at this address' in page.inner_text('body')
