"""What a fetch survives, and whom it refuses to call, over real sockets on the loopback interface."""
import asyncio, http.server, io, socket, ssl, sys, threading, time
from contextlib import contextmanager
import numpy as np, pytest
from PIL import Image
pytest.importorskip('httpx')
from bear_classifier.core import image_files, open_image, sha256_of
from bear_classifier.fetch import Limits, fetch, fetch_many, is_public
from bear_classifier.gather import download
from webdouble import Web, certificate
from photos import PHOTOS, needs_photos

def picture(seed=0):
    im = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((256, 256))
    f = io.BytesIO(); im.save(f, 'JPEG')
    return f.getvalue()

@pytest.fixture(scope='module')
def web():
    with Web({f'{i}.jpg': picture(i) for i in range(40)}, delay=.5) as w: yield w

def limits(web, **kw): return Limits(**dict(connect=2, read=2, total=6, max_bytes=2**20, allow_private=web.places) | kw)

FATES = {'silent': 'timeout', 'stall': 'timeout', 'drip': 'timeout', 'reset': 'broken', 'long': 'broken', 'endless': 'size', 'bomb': 'size', 'brotli': 'encoding',
         'garbage': 'broken', 'busy': 'status', 'missing.jpg': 'status', 'status/403': 'status', 'loop': 'redirect', 'chain/9': 'redirect',
         'slow': '', 'flaky': '', 'zipped': '', 'chain/3': '', 'html': '', 'short': '', '5.jpg?w=1024&fit=crop': ''}

def test_every_habit_has_its_fate_and_a_reason(web):
    got = {list(FATES)[o.index]: o for o in fetch_many([web.url(o) for o in FATES], limits(web))}
    assert {k: o.kind for k,o in got.items()} == FATES
    assert all(o.reason and not o.content for o in got.values() if not o.ok)
    assert all(o.seconds < 60 for o in got.values()), {k: o.seconds for k,o in got.items()}
    assert {k for k,o in got.items() if o.tries > 1} == {'reset', 'long', 'garbage', 'busy', 'flaky'}
    assert web.asked['/5.jpg?w=1024&fit=crop'] == 1 and got['5.jpg?w=1024&fit=crop'].content == picture(5)

@pytest.mark.parametrize('target', ['http://127.0.0.1/', 'http://127.0.0.1:1/', 'http://localhost/', 'http://localhost./', 'http://10.0.0.1/', 'http://192.168.0.1/',
    'http://169.254.169.254/latest/meta-data/', 'http://[::1]/', 'http://[::ffff:127.0.0.1]/', 'http://[::ffff:a9fe:a9fe]/', 'http://[64:ff9b::7f00:1]/', 'http://[fe80::1]/',
    'http://2130706433/', 'http://0x7f000001/', 'http://127.1/', 'http://0/', 'http://0.0.0.0/', 'http://224.0.0.1/', 'http://100.64.0.1/', 'http://user:secret@127.0.0.1/',
    'file:///etc/passwd', 'ftp://127.0.0.1/a.jpg', '//127.0.0.1/a.jpg', 'gopher://127.0.0.1/'])
def test_nobody_is_led_home(web, target):
    "Asked for directly and behind a redirect, only what is public and http is called"
    direct, led = (fetch(o, limits(web)) for o in (target, web.url('to?url=' + target)))
    assert led.kind == direct.kind == 'address', (direct, led)

def test_public_and_not():
    assert all(is_public(o) for o in ('1.1.1.1', '93.184.216.34', '2606:4700::1111', '2001:4860:4860::8888', '64:ff9b::808:808', '::ffff:8.8.8.8'))
    assert not any(is_public(o) for o in ('192.0.0.1', '192.0.2.1', '198.18.0.1', '203.0.113.1', '240.0.0.1', '172.31.255.255', '2001:db8::1', 'fd00::1', 'fe80::1%eth0', '2002:a00:1::', 'ff0e::1', '100::1'))

def test_the_address_that_was_checked_is_the_one_that_is_called(web):
    answers = [['127.0.0.1'], ['127.0.0.2'], ['127.0.0.3']]
    got = fetch(f'http://rebind.example:{web.port}/1.jpg', limits(web), find=lambda host, port: answers.pop(0))
    assert got.ok and len(answers) == 2, 'one look-up, and no other'
    assert fetch(f'http://rebind.example:{web.port}/1.jpg', limits(web), find=lambda host, port: answers.pop(0)).kind == 'address'

def test_one_private_address_among_public_ones_is_refused(web):
    got = fetch('http://mixed.example/', limits(web), find=lambda host, port: ['1.1.1.1', '10.1.1.1'])
    assert got.kind == 'address' and '10.1.1.1' in got.reason

def test_a_name_that_does_not_exist_and_one_that_takes_its_time(web):
    assert fetch('http://nowhere.invalid/a.jpg', limits(web)).kind == 'name'
    assert fetch('http://tar.example/', limits(web, connect=.5), find=lambda *_: time.sleep(600)).kind == 'connect'

def test_a_dead_port_is_no_connection(web):
    assert fetch('http://127.0.0.1:1/', limits(web, allow_private=True)).kind == 'connect'

@contextmanager
def secure(folder, names):
    ca, pem = certificate(folder, names)
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self): self.send_response(200); self.send_header('Content-Length', '4'); self.end_headers(); self.wfile.write(self.headers['Host'].encode()[:4])
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield ca, server.server_address[1]
    finally: server.shutdown(); server.server_close()

def test_a_pinned_connection_still_checks_the_certificate_against_the_name(tmp_path, monkeypatch):
    pytest.importorskip('cryptography')
    with secure(tmp_path, ('bears.example',)) as (ca, port):
        monkeypatch.setenv('SSL_CERT_FILE', str(ca))
        home = dict(limits=Limits(connect=3, read=3, allow_private={f'127.0.0.1:{port}'}), find=lambda host, p: ['127.0.0.1'])
        assert fetch(f'https://bears.example:{port}/', **home).content == b'bear'
        assert fetch(f'https://wolves.example:{port}/', **home).kind == 'tls'
        monkeypatch.delenv('SSL_CERT_FILE')
        assert fetch(f'https://bears.example:{port}/', **home).kind == 'tls'

def test_no_more_at_once_than_was_said():
    with Web({'a.jpg': picture()}, latency=(.03, .06), ports=4) as w:
        urls = [w.url(f'a.jpg?{i}', w.ports[i % 4]) for i in range(80)]
        assert all(o.ok for o in fetch_many(urls, limits(w, connections=9, per_host=3)))
        assert w.most['all'] <= 9 and all(w.most[p] <= 3 for p in w.ports) and w.most['all'] > 3

def test_waiting_for_a_place_costs_no_try(web):
    *_, last = fetch_many([*[web.url(f'slow?{i}') for i in range(5)], web.url('flaky?queued')], limits(web, connections=1, total=2))
    assert last.ok and last.tries == 2 and last.seconds < 2

def test_a_host_that_is_done_keeps_no_connection():
    with Web({'a.jpg': picture()}, latency=(.02, .02), ports=12) as w:
        assert all(o.ok for o in fetch_many([w.url('a.jpg', p) for p in w.ports], limits(w, connections=2)))
        assert w.most['open'] <= 4

def test_a_redirect_in_utf_8():
    with Web({'bär.jpg': picture()}) as w: assert fetch(w.url('to?url=/b%C3%A4r.jpg'), limits(w)).ok

@pytest.mark.skipif(sys.platform != 'linux', reason='needs a queue that is full')
def test_a_silent_address_leaves_time_for_the_next(web):
    with socket.create_server(('127.0.0.2', web.port), backlog=0):
        full = [socket.socket() for _ in range(4)]
        for o in full: o.setblocking(False); o.connect_ex(('127.0.0.2', web.port))
        assert fetch(f'http://two.example:{web.port}/1.jpg', limits(web, allow_private=True), find=lambda *_: ['127.0.0.2', '127.0.0.1']).ok
        for o in full: o.close()

def test_works_inside_a_running_loop_and_stops_when_nobody_listens(web):
    async def notebook(): return [o.ok for o in fetch_many([web.url('1.jpg'), web.url('2.jpg')], limits(web))]
    assert asyncio.run(notebook()) == [True, True]
    for o in fetch_many([web.url('silent'), web.url('1.jpg')], limits(web, read=600, total=600)):
        if o.ok: break
    assert o.url == web.url('1.jpg')

@needs_photos
def test_real_files_broken_and_awkward(tmp_path):
    from urllib.parse import quote
    broken = {f'broken/{quote(p.name)}': p.read_bytes() for p in (PHOTOS/'broken').iterdir()}
    awkward = {f'awkward/{quote(p.name)}': p.read_bytes() for p in image_files(PHOTOS/'awkward')}
    with Web(broken | awkward) as w:
        rows = {urlpath(o['url']): o for o in download([w.url(o) for o in w.files], tmp_path/'set', 'bear', limits=Limits(allow_private=w.places), progress=False)}
    assert {rows['/' + o]['status'] for o in broken} == {'failed'} and all(rows['/' + o]['reason'] for o in broken)
    assert {rows['/' + o]['status'] for o in awkward} <= {'kept', 'duplicate'} and len(rows) == len(broken) + len(awkward)
    files = [p for p in image_files(tmp_path/'set') if p.parent.name == 'bear']
    assert {sha256_of(p) for p in files} == {sha256_of(o) for o in awkward.values()}
    for p in files: assert p.stem == sha256_of(p)[:16] and open_image(p, 64)

def urlpath(url): return '/' + url.split('/', 3)[3]
