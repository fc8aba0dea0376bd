"The server of the dashboard: what it answers, what it refuses, and what it leaves behind"
import asyncio, http.client, json, os, socket, subprocess, time
from pathlib import Path
from urllib.parse import urlsplit
import psutil, pytest, websockets
from hypothesis import given, strategies as st
import serving
from bear_classifier import serve
from bear_classifier.core import BundleError

LONG = pytest.mark.skipif(os.environ.get('BEAR_LONG') != '1', reason='takes minutes: set BEAR_LONG=1')

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    with serving.server(tmp_path_factory.mktemp('serve'), warm=2, cap=5, interval=1, grace=6, idle=600) as s: yield s

V1 = 'v1.kernel.websocket.jupyter.org'

def rss(site): return psutil.Process(site.proc.pid).memory_info().rss

def page_config(html): return json.loads(html.split('id="jupyter-config-data" type="application/json">')[1].split('</script>')[0])

def raw(site, method, path, body=None, headers={}):
    "A request that no client library tidies up"
    o = urlsplit(site.url)
    c = http.client.HTTPConnection(o.hostname, o.port, timeout=30)
    c.putrequest(method, path, skip_accept_encoding=True)
    for k, v in {'Content-Length': str(len(body or b'')), **headers}.items(): c.putheader(k, v)
    c.endheaders(body)
    r = c.getresponse()
    return r.status, dict(r.getheaders()), r.read().decode('utf-8', 'replace')

def test_bare_requests_start_nothing(site):
    before = {p.pid for p in site.kernels()}
    for _ in range(50): assert site.get()[0] == 200
    assert raw(site, 'HEAD', '/')[0] == 200 and site.health()['status'] == 'ok'
    assert {p.pid for p in site.kernels()} == before and site.health()['visits'] == 0
    body = site.get()[2]
    assert '<h1>' in body and 'http:' not in body and 'https:' not in body

def test_the_cap_holds_and_the_rest_are_told_at_once(site):
    answers = [site.get('?start') for _ in range(5)]
    assert [o[0] for o in answers] == [200]*5 and len({page_config(o[2])['kernelId'] for o in answers}) == 5
    h = site.health()
    assert h['kernels'] == h['cap'] == 5 == h['visits'] and len(site.kernels()) == 5
    status, headers, body = site.get('?start')
    assert status == 503 and headers['Retry-After'] == '10' and 'All places are taken' in body
    h = site.until(lambda h: h['visits'] == 0 and h['warm'] == 2)
    assert h['kernels'] == 2 and len(site.kernels()) == 2, 'pages that nobody connected to are ended after the grace period'

def test_templates_and_themes_cannot_be_chosen(site):
    "Nor a place taken by a query that is written in another way: a web server that counts them knows only one"
    body = site.get('?start')[2]
    assert 'bears-page' in body and page_config(body)['jupyterLabTheme'] == 'light'
    before = site.health()['visits']
    for q in ('?start&voila-template=reveal&template=reveal&theme=dark&voila-theme=dark', '?a&start', '?%73tart', '?x=1&start=', '?start=', '?theme=dark'):
        assert 'One moment' in site.get(q)[2]
    assert site.health()['visits'] == before
    site.until(lambda h: h['visits'] == 0)

def test_sources_and_paths_are_not_shown(site):
    body = site.get('?start')[2]
    for o in ('import', 'dashboard()', '/home', str(Path.home()), str(Path(serve.__file__).parent), 'bear_classifier.app'): assert o not in body.split('<body')[1].split('vnd.voila')[0], o
    assert 'Traceback' not in body and 'source' not in json.dumps(page_config(body)).lower().replace('resource', '')

CLOSED = ['voila/files/bear_app.ipynb', 'voila/files/../../etc/passwd', 'voila/tree', 'voila/render/bear_app.ipynb', 'voila/api/contents', 'voila/api/shutdown/x',
          'api/kernels', 'api/contents', 'api/terminals', 'api/sessions', 'api/kernelspecs', 'terminals/1', 'login', 'logout', 'lab', 'tree', 'notebooks/bear_app.ipynb', 'bear_app.ipynb',
          'voila/query/00000000-0000-0000-0000-000000000000', 'voila/execution/00000000-0000-0000-0000-000000000000', 'static/x', '.env', 'metrics', 'files/model.onnx',
          'voila/templates/lab/static/index.css', 'model.json', 'bundles/practice/model.onnx']

@pytest.mark.parametrize('path', CLOSED)
def test_closed(site, path):
    status, headers, body = raw(site, 'GET', '/' + path)
    assert status == 404 and 'nothing at this address' in body and 'cdn' not in body

@pytest.mark.parametrize('path', ['/voila/static/../../../../../../../etc/passwd', '/voila/static/..%2f..%2f..%2f..%2fetc/passwd', '/voila/static/%2e%2e/%2e%2e/voila/app.py',
                                  '/voila/labextensions/../../../../../../etc/passwd', '/voila/labextensions/..%2f..%2f..%2fpyvenv.cfg', '/voila/api/themes/..%2f..%2f..%2f..%2fetc/passwd',
                                  '//etc/passwd', '/voila/static//etc/passwd', '/voila/static/%00', '/../../etc/passwd'])
def test_no_way_out_of_the_static_folders(site, path):
    status, _, body = raw(site, 'GET', path)
    assert status in (400, 403, 404) and 'root:' not in body and 'Traceback' not in body and str(Path.home()) not in body

@pytest.mark.parametrize('method', ('POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'))
def test_only_reading(site, method):
    for path in ('/', '/healthz', '/api/kernels/00000000-0000-0000-0000-000000000000', '/voila/api/shutdown/00000000-0000-0000-0000-000000000000'):
        assert raw(site, method, path, b'{}')[0] in (403, 404, 405)
    assert site.health()['kernels'] >= 2

def test_a_long_address_fills_no_log(tmp_path):
    with serving.server(tmp_path, warm=0, cap=1, verbose=True) as s:
        for _ in range(5): assert raw(s, 'GET', '/nowhere?' + 'a'*8000)[0] == 404
    log = (tmp_path/'server.log').read_text()
    assert log.count('404 GET /nowhere') == 5 and 'a'*200 not in log

def test_every_answer_carries_the_headers(site):
    for path in ('', 'healthz', 'nowhere', 'nothing.js', 'voila/static/voila.js', 'voila/static/nowhere.js', 'alive/00000000-0000-0000-0000-000000000000', 'api/kernels/00000000-0000-0000-0000-000000000000'):
        _, headers, _ = site.get(path)
        for k, v in serve.security_headers().items(): assert headers[k] == v, (path, k)
        assert 'Server' not in headers
    assert 'max-age' in site.get('voila/static/voila.js')[1]['Cache-Control']

def test_a_kernel_that_is_not_there(site):
    assert site.get('alive/00000000-0000-0000-0000-000000000000')[0] == 410

# ---- What a visitor can do who writes their own client ----

class Visitor:
    "Speaks Jupyter's protocol with the kernel of a page, as any script in a browser could"
    def __init__(self, site):
        self.site, self.config = site, page_config(site.get('?start')[2])
        self.kernel = self.config['kernelId']
        self.address = site.url.replace('http', 'ws') + f'api/kernels/{self.kernel}/channels?session_id=test'

    def message(self, kind, content, channel='shell'):
        header = dict(msg_id=os.urandom(8).hex(), username='', session='test', msg_type=kind, version='5.3', date='2026-01-01T00:00:00Z')
        return json.dumps(dict(header=header, parent_header={}, metadata={}, content=content, buffers=[], channel=channel))

    def talk(self, *messages, seconds=2, **kw):
        "Send messages and collect what comes back for a while"
        read = (lambda m: m) if 'subprotocols' in kw else json.loads
        async def go():
            got = []
            async with websockets.connect(self.address, max_size=None, origin=self.site.url.rstrip('/'), **kw) as ws:
                for m in messages: await ws.send(m)
                end = time.monotonic() + seconds
                while (left := end - time.monotonic()) > 0:
                    try: got.append(read(await asyncio.wait_for(ws.recv(), left)))
                    except asyncio.TimeoutError: break
                return got
        return asyncio.run(go())

def test_a_visitor_runs_no_code(site, tmp_path):
    v = Visitor(site)
    made = tmp_path/'made'
    code = dict(code=f"open({str(made)!r}, 'w')", silent=False, store_history=False, user_expressions={'a': f"open({str(made)!r}, 'w')"}, allow_stdin=False)
    others = [v.message(k, dict(code='1', cursor_pos=1, detail_level=1)) for k in ('inspect_request', 'complete_request', 'history_request', 'is_complete_request')]
    got = v.talk(v.message('execute_request', code), v.message('execute_request', code, 'control'), v.message('debug_request', dict(command='evaluate'), 'control'),
                 v.message('shutdown_request', dict(restart=False), 'control'), *others, v.message('kernel_info_request', {}))
    kinds = {m['msg_type'] for m in got}
    assert 'kernel_info_reply' in kinds and not kinds & {'execute_reply', 'execute_result', 'inspect_reply', 'complete_reply', 'history_reply', 'shutdown_reply'}
    assert not made.exists() and site.get(f'alive/{v.kernel}')[0] == 200

def test_nonsense_ends_at_most_ones_own_page(site):
    v = Visitor(site)
    nonsense = ['', 'x', '[]', '{}', 'null', '{"channel": "shell"}', b'', b'\0'*9, os.urandom(4000), json.dumps(dict(channel='shell', header={})), '9'*10000,
                v.message('comm_msg', dict(comm_id='nowhere', data={})), v.message('comm_open', dict(comm_id='a', target_name='jupyter.widget', data=dict(state=dict(_model_name='X')))),
                v.message('comm_open', dict(comm_id='b', target_name='os.system', data={}))]
    for m in nonsense:
        try: got = v.talk(m, seconds=.15)
        except websockets.exceptions.WebSocketException: got = []
        assert 'Traceback' not in json.dumps(got)
    try: v.talk(b'\0' * (17*2**20), seconds=1)
    except websockets.exceptions.ConnectionClosed as e: assert e.rcvd is None or e.rcvd.code == 1009
    assert site.health()['status'] == 'ok' and site.get(f'alive/{v.kernel}')[0] in (200, 410)
    w = Visitor(site)
    assert any(m['msg_type'] == 'kernel_info_reply' for m in w.talk(w.message('kernel_info_request', {})))

@pytest.mark.parametrize('way', ('', V1))
def test_a_few_bytes_of_nonsense_cost_nothing(site, way):
    "Jupyter believes what a binary message says of its parts: it would count to 2**63, or reserve gigabytes, while everybody waits"
    n = 2**20
    parts = lambda number, at, width=8 if way else 4, order='little' if way else 'big': b''.join(o.to_bytes(width, order) for o in (number, *at))
    for message in (b'\x7f' + b'\xff'*7, b'\xff'*8, b'\x7f\xff\xff\xff', parts(n, [n*(i % 2) for i in range(n)]), parts(3, [0, 2**31, 0]), parts(0, [])):
        site.until(lambda h: h['visits'] < 2)
        v, before = Visitor(site), rss(site)
        with pytest.raises(websockets.exceptions.ConnectionClosed) as e: v.talk(message, seconds=25, **(dict(subprotocols=[way]) if way else {}))
        assert e.value.rcvd.code == 1007 and site.health()['status'] == 'ok' and rss(site) - before < 100e6

@given(st.lists(st.integers(0, 120), min_size=2, max_size=6).flatmap(lambda at: st.sampled_from([at, sorted(at)])), st.integers(-1, 1), st.binary(max_size=60))
def test_sound_messages_are_no_larger_than_they_are(at, wrong, body):
    "Whatever offsets say: what is let through has its parts side by side, and never more bytes than came"
    message = b''.join(o.to_bytes(8, 'little') for o in (len(at) + wrong, *at)) + body
    if not serve.sound_message(message): return
    at = at[:len(at) + wrong]
    assert at == sorted(at) and sum(len(message[x:y]) for x, y in zip(at, at[1:])) <= len(message)

def slow_upload(site, v, size=12*2**20):
    "A connection that has announced a large message and sent its beginning"
    o = urlsplit(v.address)
    s = socket.create_connection((o.hostname, o.port), 30)
    s.sendall(f'GET {o.path}?{o.query} HTTP/1.1\r\nHost: {o.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n'
              f'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: {site.url.rstrip("/")}\r\n\r\n'.encode())
    assert s.recv(4096).startswith(b'HTTP/1.1 101')
    s.sendall(bytes([0x82, 0xff]) + size.to_bytes(8, 'big') + b'mask')
    return s

def test_many_slow_uploads_hold_nobody_up(site):
    "Two hundred half-sent requests, and three visitors on eight connections each that send a large picture a few bytes at a time"
    site.until(lambda h: h['visits'] == 0 and h['warm'] == 2)
    o = urlsplit(site.url)
    half = [socket.create_connection((o.hostname, o.port), 30) for _ in range(200)]
    for s in half: s.sendall(b'GET / HTTP/1.1\r\nHost: bears\r\nX-Slow: ')
    before, slow = rss(site), [slow_upload(site, v) for v in [Visitor(site) for _ in range(3)] for _ in range(8)]
    for _ in range(5):
        for s in half + slow: s.sendall(b'a' * 50)
        assert site.health()['status'] == 'ok'
    v = Visitor(site)
    assert any(m['msg_type'] == 'kernel_info_reply' for m in v.talk(v.message('kernel_info_request', {}))) and rss(site) - before < 100e6
    for s in half + slow: s.close()
    h = site.until(lambda h: h['visits'] == 0 and h['warm'] == 2)
    assert h['visits'] == 0 and h['kernels'] == 2, 'whoever is gone takes no place'

def test_a_request_carries_no_hundred_megabytes(site):
    "Eight connections that send large bodies to an address that is none"
    o, before, keep = urlsplit(site.url), rss(site), []
    for _ in range(8):
        s = socket.create_connection((o.hostname, o.port), 30); keep.append(s)
        s.sendall(b'POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n')
        try:
            for _ in range(40): s.sendall(b'a'*2**20)
        except OSError: pass
    assert rss(site) - before < 60e6 and site.health()['status'] == 'ok'
    for s in keep: s.close()

def test_plain_requests_for_a_socket_leave_nothing(site):
    site.until(lambda h: h['visits'] == 0)
    v = Visitor(site)
    get = lambda i: raw(site, 'GET', f'/api/kernels/{v.kernel}/channels?session_id={i}&x={"a"*8000}')[0]
    assert {get(i) for i in range(20)} == {400}
    before = rss(site)
    for i in range(400): get(20 + i)
    assert rss(site) - before < 20e6
    h = site.until(lambda h: h['visits'] == 0)
    assert h['visits'] == 0, 'asking without a websocket keeps no place'

def cut(header, content, *pictures):
    "A message as the page's script cuts it"
    header = dict(msg_id=os.urandom(8).hex(), username='', session='test', version='5.3', date='2026-01-01T00:00:00Z') | header
    parts = [b'shell', json.dumps(header).encode(), b'{}', b'{}', json.dumps(content).encode(), *pictures]
    at = [8*(len(parts) + 2)]
    for o in parts: at.append(at[-1] + len(o))
    return b''.join(o.to_bytes(8, 'little') for o in [len(at), *at]) + b''.join(parts)

@pytest.mark.parametrize('v1', (True, False))
def test_much_json_is_refused_before_it_is_read(site, v1):
    site.until(lambda h: h['visits'] == 0)
    v, much = Visitor(site), [[]]*10**6
    message = cut(dict(msg_type='comm_msg'), dict(comm_id='x', data=much)) if v1 else v.message('comm_msg', dict(comm_id='x', data=much))
    with pytest.raises(websockets.exceptions.ConnectionClosed) as e: v.talk(message, seconds=25, **(dict(subprotocols=[V1]) if v1 else {}))
    assert e.value.rcvd.code == 1007

def test_large_pictures_wait_for_the_kernel(site):
    "Forty messages of ten megabytes: the server holds a few of them, the kernel stays below its gigabyte, and the others notice nothing"
    site.until(lambda h: h['visits'] == 0 and h['warm'] == 2)
    v, before = Visitor(site), rss(site)
    message = lambda: cut(dict(msg_type='comm_msg'), dict(comm_id='nowhere', data={}), os.urandom(16) + bytes(10 * 2**20))
    got = v.talk(*(message() for _ in range(40)), cut(dict(msg_type='kernel_info_request'), {}), seconds=6, subprotocols=[V1])
    assert any(b'kernel_info_reply' in o[:2000] for o in got if isinstance(o, bytes)) and rss(site) - before < 200e6
    mine = [p for p in site.kernels() if v.kernel in ' '.join(p.cmdline())]
    assert all(p.memory_info().rss < 1e9 for p in mine)
    other = Visitor(site)
    assert any(m['msg_type'] == 'kernel_info_reply' for m in other.talk(other.message('kernel_info_request', {})))

def test_who_asks_and_does_not_listen_is_hung_up_on(site):
    site.until(lambda h: h['visits'] == 0 and h['warm'] == 2)
    v, before = Visitor(site), rss(site)
    async def go():
        async with websockets.connect(v.address, subprotocols=[V1], origin=site.url.rstrip('/'), ping_interval=None, max_size=None, max_queue=1) as ws:
            ws.transport.pause_reading()
            for _ in range(4000): await ws.send(cut(dict(msg_type='kernel_info_request'), {}))
            await asyncio.sleep(1)
    try: asyncio.run(asyncio.wait_for(go(), 40))
    except (asyncio.TimeoutError, websockets.exceptions.ConnectionClosed): pass
    assert rss(site) - before < 100e6 and site.health()['status'] == 'ok'

def test_another_site_cannot_use_a_visitors_browser(site):
    site.until(lambda h: h['visits'] == 0)
    v = Visitor(site)
    async def go():
        async with websockets.connect(v.address, origin='https://evil.example'): pass
    with pytest.raises(websockets.exceptions.InvalidStatus) as e: asyncio.run(go())
    assert e.value.response.status_code == 403

def test_leaving_frees_the_kernel(site):
    site.until(lambda h: h['visits'] == 0)
    v = Visitor(site)
    v.talk(seconds=3)
    assert site.get(f'alive/{v.kernel}')[0] == 200
    site.until(lambda h: h['visits'] == 0, 10)
    assert site.get(f'alive/{v.kernel}')[0] == 410 and len(site.kernels()) == 2

def test_a_warm_page_whose_kernel_died_is_not_handed_out(site):
    site.until(lambda h: h['visits'] == 0 and h['warm'] == 2)
    old = site.kernels()
    for p in old: p.kill()
    time.sleep(.5)  # a killed process of many threads is no corpse until the last of them is gone
    v = Visitor(site)
    assert site.get(f'alive/{v.kernel}')[0] == 200
    site.until(lambda h: h['visits'] == 0 and h['warm'] == 2)

def test_kernels_have_one_thread_and_little_memory(site):
    site.until(lambda h: h['warm'] == 2)
    for p in site.kernels():
        e = p.environ()
        assert e['OMP_NUM_THREADS'] == '1' and e['OMP_WAIT_POLICY'] == 'PASSIVE' and all(c.laddr.ip == '127.0.0.1' for c in p.net_connections() if c.status == 'LISTEN')
        maps = Path(f'/proc/{p.pid}/maps')
        if maps.exists(): assert not any(o in maps.read_text() for o in ('libtorch', '_pandas', 'matplotlib/_', '_debugpy'))

# ---- Beginning and end ----

def test_sigterm_leaves_nothing(tmp_path):
    s = serving.Server(tmp_path/'log', warm=2, cap=4)
    kernels, me = s.kernels(), psutil.Process(s.proc.pid)
    folder = Path(me.environ().get('TMPDIR', '/tmp'))
    mine = {f for f in folder.glob('bears-*') if any(str(f) in ' '.join(k.cmdline()) for k in kernels)}
    assert len(kernels) == 2 and len(mine) == 1
    s.get('?start')
    assert s.stop() == 0
    assert not [k for k in kernels if k.is_running() and k.status() != 'zombie'] and not any(f.exists() for f in mine)
    assert 'Traceback' not in (tmp_path/'log').read_text()

def test_below_a_path_and_beside_another(tmp_path):
    with serving.server(tmp_path, warm=1, cap=2, base_url='/bears/', frames='https://example.org') as s:
        assert s.url.endswith('/bears/') and s.get('healthz')[0] == 200
        status, headers, body = s.get('?start')
        assert status == 200 and 'frame-ancestors https://example.org' in headers['Content-Security-Policy'] and page_config(body)['baseUrl'] == '/bears/'
        assert raw(s, 'GET', '/healthz')[0] == 404
        port = urlsplit(s.url).port
        with serving.server(tmp_path, warm=0, cap=1, port=port) as other: assert urlsplit(other.url).port != port

def test_a_model_that_is_not_there_fails_before_anything_starts(tmp_path):
    with pytest.raises(BundleError, match='nowhere'): serve.serve_app(tmp_path/'nowhere')

# ---- Long proofs ----

@LONG
@pytest.mark.timeout(1500)
def test_the_containers_steps_in_an_empty_environment(tmp_path):
    "What the Dockerfile would do, without Docker: its installs, its command, its health check, its stop"
    import re, shutil, venv
    root = Path(__file__).resolve().parent.parent
    lines = (root/'nbs'/'deploy'/'Dockerfile').read_text().splitlines()
    venv.create(tmp_path/'venv', with_pip=True)
    python = tmp_path/'venv'/'bin'/'python'
    app = tmp_path/'app'; app.mkdir()
    for line in lines:
        if line.startswith('COPY'):
            *sources, dest = line.split()[1:]
            for o in sources:
                to = app/dest/Path(o).name if dest == './' else app/dest
                to.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (root/o).is_dir() else shutil.copy)(root/o, to)
        if line.startswith('RUN python'): subprocess.run([python, *line.split()[2:]], cwd=app, check=True, capture_output=True)
    command = json.loads(next(o for o in lines if o.startswith('CMD'))[4:])
    port = str(serving.free_port())
    command = [port if o == '7860' else str(tmp_path/'data'/'feedback.sqlite') if o.startswith('/data') else o for o in command]
    proc = subprocess.Popen([tmp_path/'venv'/'bin'/command[0], *command[1:]], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert 'is ready' in proc.stdout.readline()
        check = json.loads(re.search(r'HEALTHCHECK .*CMD (.*)', '\n'.join(lines))[1])
        assert subprocess.run([python, *[o.replace('7860', port) for o in check[1:]]]).returncode == 0
    finally: proc.terminate()
    assert proc.wait(20) == 0
    packages = subprocess.run([python, '-m', 'pip', 'list', '--format=freeze'], capture_output=True, text=True).stdout.lower()
    assert 'onnxruntime' in packages and 'torch' not in packages and 'pandas' not in packages

@LONG
@pytest.mark.timeout(3000)
def test_two_hundred_visits_and_no_dead_page(tmp_path):
    with serving.server(tmp_path, warm=3, cap=8, interval=1, idle=4, grace=30) as s, serving.chromium() as b:
        dead, ready = 0, []
        for i in range(200):
            if i % 10 == 0: time.sleep(5)  # the warm pages grow older than the idle time-out
            c = b.new_context(); t = time.perf_counter()
            page = serving.visit(c, s.url); ready.append(time.perf_counter() - t)
            page.get_by_role('button', name='Try the sample: a teddy bear').click()
            try: page.wait_for_selector('.card[data-state=done]', timeout=20_000)
            except Exception: dead += 1
            c.close()
            if i % 20 == 19: print(i + 1, 'visits', dead, 'dead', flush=True)
        s.until(lambda h: h['visits'] == 0, 10)
        h = s.health()
        print(json.dumps(dict(visits=200, dead=dead, ready_median=sorted(ready)[100], ready_max=max(ready), health=h)))
        assert dead == 0 and h['kernels'] == 3

@LONG
@pytest.mark.timeout(3000)
def test_a_hundred_bare_requests_while_ten_work(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    with serving.server(tmp_path, warm=2, cap=12, interval=2, grace=8) as s, serving.chromium() as b, ThreadPoolExecutor(20) as pool:
        pages = [serving.visit(b.new_context(), s.url) for _ in range(10)]
        def ask(i):
            t = time.perf_counter(); status = s.get('?start' if i % 2 else '')[0]
            return i % 2, status, time.perf_counter() - t
        asked, most, times = [pool.submit(ask, i) for i in range(100)], 0, []
        for k in range(3):
            for p in pages:
                t = time.perf_counter()
                p.get_by_role('button', name='Try the sample: a teddy bear').click()
                p.wait_for_function(f"document.querySelectorAll('.card[data-state=done]').length == {k+1}", timeout=20_000)
                times.append(time.perf_counter() - t); most = max(most, s.health()['kernels'], len(s.kernels()))
        got = [o.result() for o in asked]
        for p in pages: p.context.close()
        t = time.perf_counter(); h = s.until(lambda h: h['visits'] == 0 and h['kernels'] == 2, 30)
        told = [o[2] for o in got if o[1] == 503]
        print(json.dumps(dict(most=most, answers=len(times), answer_max=max(times), refused=len(told), refused_max=max(told or [0]), bare={str(k): sum(o[1] == k for o in got) for k in {o[1] for o in got}}, back=time.perf_counter()-t, health=h)))
        assert most <= 12 and all(o[1] == 200 for o in got if not o[0]) and h['kernels'] == 2
