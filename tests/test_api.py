"The API on real sockets: answers, refusals, hostile and slow clients, renewal under load, a clean stop"
import asyncio, io, json, os, re, shutil, signal, socket, struct, subprocess, sys, threading, time, zipfile, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

httpx = pytest.importorskip('httpx', reason='httpx asks the API')
pytest.importorskip('fastapi', reason='the api part is not installed')
from bear_classifier import api
from bear_classifier.core import DataError, ImageError, sniff, write_atomic
from bear_classifier.infer import BearClassifier
from bear_classifier.practice import draw_outsider, draw_scene
from photos import PHOTOS, needs_photos

ROOT = Path(__file__).resolve().parent.parent


def encoded(im, fmt='JPEG', **kw):
    out = io.BytesIO(); im.save(out, fmt, **kw)
    return out.getvalue()


@pytest.fixture(scope='session')
def bear(): return encoded(draw_scene('grizzly', 4, 320).image, quality=88)


@pytest.fixture(scope='session')
def practice(): return BearClassifier.practice()


def publish(folder, version, source, damaged=False):
    "Add a version to the model in `folder` and make it the current one"
    to = folder/version
    shutil.copytree(source, to)
    card = json.loads((to/'model.json').read_text(encoding='utf-8'))
    (to/'model.json').write_text(json.dumps(card | dict(name='bears', version=version)), encoding='utf-8')
    if damaged: (to/'model.onnx').write_bytes(b'half a copy')
    write_atomic(folder/'current', version)


@pytest.fixture(scope='module')
def url(practice):
    with api.running_api(practice, max_bytes=2**20, max_files=4) as o: yield o


class Server:
    "`serve_api` in a process of its own, in an empty folder"
    def __init__(self, folder, model, **options):
        self.folder = folder
        code = f'import sys; from bear_classifier.api import serve_api; serve_api(sys.argv[1], port=0, **{options!r})'
        env = dict(os.environ, TMPDIR=str(folder), TEMP=str(folder), PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
        self.p = subprocess.Popen([sys.executable, '-c', code, str(model)], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.p.stdout.readline()
        assert line, self.p.stderr.read()
        self.port = int(re.search(r':(\d+)/', line)[1]); self.url = f'http://127.0.0.1:{self.port}'

    def __enter__(self): return self

    def __exit__(self, *_):
        if self.p.poll() is None: self.p.terminate()
        self.said = self.p.communicate(timeout=40)

    def metric(self, name):
        lines = httpx.get(self.url + '/metrics').text.splitlines()
        return next((float(o.split()[-1]) for o in lines if o.startswith(name)), 0.)


def is_problem(r, status):
    "A refusal in the right shape, that gives nothing away"
    body = r.json()
    assert r.status_code == status == body['status'], r.text
    assert r.headers['content-type'] == 'application/problem+json' and body['title'] and body['type'] == 'about:blank'
    assert body['detail'][0].isupper() and 'Traceback' not in r.text and str(ROOT) not in r.text
    assert r.headers['x-content-type-options'] == 'nosniff' and 'server' not in r.headers
    return body['detail']


def one(url, data, kind='image/jpeg', **kw): return httpx.post(url + '/v1/predict', content=data, headers={'Content-Type': kind} | kw.pop('headers', {}), timeout=60, **kw)
def several(url, *files, **kw): return httpx.post(url + '/v1/predict', files=[('files', o) for o in files], timeout=60, **kw)


# Answers

def test_answers_are_the_librarys(url, practice, bear):
    p = practice.predict(bear)
    for r in (one(url, bear), one(url, bear, 'application/octet-stream'), several(url, ('b.jpg', bear))):
        assert r.status_code == 200, r.text
        said = r.json(); a = said['answers'][0]
        assert (said['model'], said['version']) == (practice.name, practice.card['version'])
        assert (a['verdict'], a['label'], a['sentence'], a['error']) == (p.verdict, p.label, p.sentence(), None)
        assert a['probabilities'] == pytest.approx(p.probabilities, abs=1e-4) and a['domain_score'] == pytest.approx(p.domain_score, abs=1e-4)
        assert a['map'] is None


def test_the_map_comes_when_asked_for(url, practice, bear):
    a = httpx.post(url + '/v1/predict?map=true', content=bear, headers={'Content-Type': 'image/jpeg'})
    cam = practice.predict(bear).cam
    assert [len(o) for o in a.json()['answers'][0]['map']] == [cam.shape[1]] * cam.shape[0]


def test_several_pictures_keep_their_order_and_a_bad_one_its_place(url, bear):
    cat = encoded(draw_outsider('cat', 5, 320), 'PNG')
    r = several(url, ('one.jpg', bear), ('note.jpg', b'dear bear'), ('cat.png', cat), ('one.jpg', bear))
    assert r.status_code == 200
    a = r.json()['answers']
    assert [o['name'] for o in a] == ['one.jpg', 'note.jpg', 'cat.png', 'one.jpg']
    assert [o['error'] is None for o in a] == [True, False, True, True] and a[0] == a[3]
    assert a[1]['error'] == a[1]['sentence'] == 'This is text, not an image' and a[1]['verdict'] is None


def test_the_card_is_served_without_its_reference(url, practice):
    r = httpx.get(url + '/v1/model')
    assert r.status_code == 200 and r.json()['classes'] == list(practice.classes) and 'reference' not in r.json()['domain']


def test_thirty_two_at_once_are_all_answered(url, bear):
    with ThreadPoolExecutor(32) as crowd: rs = list(crowd.map(lambda _: one(url, bear), range(64)))
    assert {r.status_code for r in rs} == {200} and len({r.text for r in rs}) == 1


# Refusals

def test_each_wrong_request_gets_a_sentence(url, bear):
    assert '/v1/predict' in is_problem(httpx.get(url + '/'), 404)
    is_problem(httpx.get(url + '/../../etc/passwd'), 404); is_problem(httpx.get(url + '/%2e%2e/%00'), 404); is_problem(httpx.get(url + '/docs'), 404)
    r = httpx.get(url + '/v1/predict')
    assert 'POST' in is_problem(r, 405) and r.headers['allow'] == 'POST'
    assert 'image/jpeg' in is_problem(one(url, bear, 'application/x-www-form-urlencoded'), 415)
    assert 'addresses' in is_problem(one(url, b'{"urls": ["http://example.org/"]}', 'application/json'), 415)
    assert 'map' in is_problem(httpx.post(url + '/v1/predict?map=perhaps', content=bear, headers={'Content-Type': 'image/jpeg'}), 422)
    assert 'too large' in is_problem(one(url, bytes(2**20 + 1)), 413)
    assert 'Too many' in is_problem(several(url, *[('a.jpg', bear)]*5), 413)
    assert '"files"' in is_problem(httpx.post(url + '/v1/predict', files={'photo': bear}), 422)
    r = several(url, ('a.jpg', b'<html>'), ('b.jpg', b''))
    assert 'None of the 2' in is_problem(r, 422) and [o['name'] for o in r.json()['errors']] == ['a.jpg', 'b.jpg']


@pytest.mark.parametrize('kind', ['multipart/form-data', 'multipart/form-data; boundary=', 'multipart/form-data; boundary=' + 'x'*2000, 'multipart/form-data; boundary="a\\"b', 'multipart/form-data; boundary=edge'])
def test_damaged_forms(url, kind):
    for body in (b'', b'--edge', b'--edge\r\n', b'--edge\r\n\r\n', b'--edge\r\nContent-Disposition: form-data; name="files"\r\n\r\nx', bytes(3000), b'--edge\r\n' + b'A'*30_000, b'--edge\r\n' + b'A: b\r\n'*5000):
        assert is_problem(one(url, body, kind), one(url, body, kind).status_code) and one(url, body, kind).status_code in (400, 422)
    assert 'no picture' in is_problem(one(url, b'--edge--\r\n', 'multipart/form-data; boundary=edge'), 422)


def test_a_form_is_the_same_however_it_is_cut():
    hypothesis = pytest.importorskip('hypothesis', reason='hypothesis cuts the form')
    st = hypothesis.strategies
    data = st.binary(max_size=60) | st.lists(st.sampled_from([b'\r\n', b'--', b'edge', b'--edge', b'\r\n--edg', b'x']), max_size=8).map(b''.join).filter(lambda o: b'\r\n--edge' not in b'\r\n' + o)
    @hypothesis.settings(max_examples=150, deadline=None, database=None)
    @hypothesis.given(st.lists(data, min_size=1, max_size=4), st.lists(st.integers(1, 50), min_size=1, max_size=20))
    def check(files, cuts):
        files = [o for o in files if b'\r\n--edge' not in b'\r\n' + o] or [b'']
        part = lambda i, o: b'--edge\r\nContent-Disposition: form-data; name="files"; filename="%d"\r\n\r\n' % i + o + b'\r\n'
        body, sink = b''.join(part(*o) for o in enumerate(files)) + b'--edge--\r\n', api._Form('edge', api.Bounds())
        for i in range(10**6):
            if not body: break
            sink.write(body[:cuts[i % len(cuts)]]); body = body[cuts[i % len(cuts)]:]
        assert sink.done() == [(str(i), o) for i,o in enumerate(files)]
    check()


def claims(width, height):
    "A PNG of a few bytes that says it is huge"
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z: z.writestr('../../evil.jpg', b'x')
    return out.getvalue()


HOSTILE = {'nothing': (b'', 'empty'), 'a web page': (b'<!doctype html><script>alert(1)</script>', 'web page'), 'svg': (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', 'SVG'),
           'zip': (zipped(), 'zip'), 'huge claim': (claims(60_000, 60_000), 'too large'), 'text': (b'dear bear', 'text'), 'pdf': (b'%PDF-1.7', 'PDF'), 'program': (b'MZ\x90\0' + bytes(100), 'program'),
           'zeros': (bytes(5000), 'not an image'), 'head only': (b'\xff\xd8\xff\xe0', 'damaged'), 'html jpeg': (b'\xff\xd8\xff<html><script>alert(1)</script>', 'damaged')}

@pytest.mark.parametrize('what', HOSTILE)
def test_hostile_uploads(url, what):
    data, words = HOSTILE[what]
    assert words in is_problem(one(url, data), 422)
    assert words in is_problem(several(url, ('photo.jpg', data)), 422)


def test_a_polyglot_is_only_its_picture(url, bear, practice):
    "A JPEG that is a zip too, and a GIF that is a script too: the picture is looked at, the rest is never run or unpacked"
    for data in (bear + zipped(), encoded(draw_scene('teddy', 1, 64).image.convert('P'), 'GIF') + b'/*<script>alert(1)</script>*/'):
        assert one(url, data).json()['answers'][0]['label'] == practice.predict(data).label


NAMES = ['../../etc/passwd', '..\\..\\boot.ini', '/etc/cron.d/x', 'C:\\con', '"quoted"', "o'; drop table--", '<img src=x onerror=alert(1)>.jpg', '\U0001f43b.jpg', 'bär ñ 熊.png', 'a'*3000, '', '%2e%2e%2f', '$(id)', '{{7*7}}', '\r\nX-Evil: 1']

def test_names_are_echoed_and_nothing_is_written(tmp_path, practice, bear):
    with Server(tmp_path, practice.bundle.path) as s:
        for name in NAMES:
            r = several(s.url, (name or 'x', bear)) if name else one(s.url, bear)
            assert r.status_code == 200 and r.headers['content-type'] == 'application/json' and 'x-evil' not in r.headers
            assert len(r.json()['answers'][0]['name']) <= 255
        assert several(s.url, ('\U0001f43b.jpg', bear)).json()['answers'][0]['name'] == '\U0001f43b.jpg'
        big = encoded(draw_scene('teddy', 3, 1500).image, 'PNG', compress_level=0)
        assert several(s.url, ('big.png', big)).status_code == 200  # frameworks put such a one on the disk
        assert list(tmp_path.iterdir()) == []
    assert s.p.returncode == 0 and s.said[1] == ''


def endless(n, chunk=bytes(2**16)):
    for _ in range(n // len(chunk)): yield chunk


def test_a_hundred_megabytes_are_refused_while_they_stream(tmp_path, practice, bear):
    with Server(tmp_path, practice.bundle.path) as s:
        one(s.url, bear)
        before = s.metric('process_resident_memory_bytes')
        for _ in range(3):
            assert 'too large' in is_problem(one(s.url, endless(100 * 2**20)), 413)                                      # nobody said how much would come
            assert 'too large' in is_problem(one(s.url, bytes(100 * 2**20)), 413)                                        # it was said before
            head = b'--e\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
            def body(): yield head; yield from endless(100 * 2**20)
            assert 'too large' in is_problem(one(s.url, body(), 'multipart/form-data; boundary=e'), 413)
        assert s.metric('process_resident_memory_bytes') - before < 90e6 and s.metric('bear_held_bytes') == 0
        assert one(s.url, bear).status_code == 200


def test_a_client_that_asks_first_is_not_told_to_go_on(url):
    "Expect: 100-continue with too large a length: the refusal comes and no body is asked for"
    with socket.create_connection(('127.0.0.1', int(url.split(':')[-1]))) as c:
        c.sendall(b'POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n')
        c.settimeout(20); said = b''.join(iter(lambda: c.recv(65536), b''))
    assert said.startswith(b'HTTP/1.1 413') and b'too large' in said and b'100 Continue' not in said


@needs_photos
def test_awkward_and_broken_photos(practice):
    with api.running_api(practice) as url:
        for p in sorted((PHOTOS/'awkward').glob('*/*')): assert one(url, p.read_bytes()).status_code == 200, p.name
        for p in sorted(o for o in (PHOTOS/'broken').rglob('*') if o.is_file() and sniff(o.read_bytes()[:512]) is None and o.suffix != '.csv'):
            with pytest.raises(ImageError) as e: practice.predict(p)
            assert is_problem(several(url, (p.name, p.read_bytes())), 422).lower() == str(e.value).lower()


# Faults and keys

def test_a_fault_of_ours_says_so_and_nothing_else(practice, bear, caplog):
    class Broken(BearClassifier):
        def predict(self, source): raise RuntimeError('a secret of the machine')
    with api.running_api(Broken(practice.bundle)) as url:
        r = one(url, bear)
        assert 'not with your picture' in is_problem(r, 500) and 'secret' not in r.text
        assert httpx.get(url + '/healthz').json() == {'status': 'ok'}
    assert 'a secret of the machine' in caplog.text  # the operator does see it


def test_a_key(practice, bear):
    with api.running_api(practice, api_key='clé secrète') as url:
        for given in ({}, {'Authorization': 'Bearer wrong'}, {'Authorization': 'Basic abc'}, {'Authorization': b'Bearer \xff'}):
            r = one(url, bear, headers=given)
            assert 'key' in is_problem(r, 401) and r.headers['www-authenticate'] == 'Bearer'
        for path in ('/v1/model', '/metrics'): is_problem(httpx.get(url + path), 401)
        for path in ('/healthz', '/readyz', '/openapi.json'): assert httpx.get(url + path).status_code == 200
        assert one(url, bear, headers={'Authorization': 'Bearer clé secrète'.encode()}).status_code == 200
    with pytest.raises(DataError, match='empty'): api.create_app(practice, api_key='')


def test_an_empty_key_opens_nothing(practice, monkeypatch):
    "As of a variable that was not set"
    with pytest.raises(DataError, match='empty'): api.serve_api(practice, port=0, api_key='')
    monkeypatch.setenv('BEAR_API_KEY', '')
    with pytest.raises(DataError, match='empty'): api.serve_api(practice, port=0)


def test_limits_that_cannot_be_kept_are_refused(practice):
    for kw in (dict(max_bytes=70*2**20), dict(memory=2**20, max_bytes=2**19)):
        with pytest.raises(DataError, match='too large to take'): api.create_app(practice, **kw)


def test_pages_elsewhere_may_ask_only_where_allowed(url, practice, bear):
    origin = {'Origin': 'https://example.org'}
    assert 'access-control-allow-origin' not in one(url, bear, headers=origin).headers
    with api.running_api(practice, origins=['https://example.org']) as open_:
        for r in (one(open_, bear, headers=origin), one(open_, b'', headers=origin)): assert r.headers['access-control-allow-origin'] == 'https://example.org'
        assert 'access-control-allow-origin' not in one(open_, bear, headers={'Origin': 'https://evil.example'}).headers


def test_metrics_count_and_cannot_be_blown_up(practice, bear):
    with api.running_api(practice) as url:
        one(url, bear); one(url, b'x')
        for i in range(20): httpx.get(f'{url}/{i}')
        text = httpx.get(url + '/metrics').text
    assert 'bear_requests_total{route="/v1/predict",status="200"} 1.0' in text and 'bear_images_total{verdict="error"} 1.0' in text
    assert 'bear_requests_total{route="other",status="404"} 20.0' in text and text.count('bear_requests_total{route="other"') == 1


# Addresses

def test_addresses_are_fetched_only_with_leave_and_only_in_public(practice, bear):
    pytest.importorskip('anyio')
    from bear_classifier.fetch import Limits
    sys.path.insert(0, str(ROOT/'tests'))
    from webdouble import Web
    with Web({'bear.jpg': bear}) as web, Web({'bear.jpg': bear}) as inner:
        urls = [web.url('bear.jpg'), web.url('html'), web.url('missing'), inner.url('bear.jpg'), web.url(f'to?url={inner.url("bear.jpg")}'), 'file:///etc/passwd', 'http://[::1]:1/', 'http://169.254.169.254/latest/meta-data/', web.url('bear.jpg?again=1')]
        with api.running_api(practice, allow_urls=Limits(allow_private=web.places, retries=0, total=5.)) as url:
            r = httpx.post(url + '/v1/predict', json=dict(urls=urls), timeout=60)
            assert r.status_code == 200, r.text
            a = r.json()['answers']
            assert [o['name'] for o in a] == urls and [o['error'] is None for o in a] == [True] + [False]*7 + [True]
            assert 'web page' in a[1]['error'] and 'refused' in a[2]['error'] and all('not a public web address' in o['error'] for o in a[3:8])
            assert not inner.asked and '127.0.0.1' not in ''.join(o['error'] or '' for o in a)
            for bad in (b'{', b'[]', b'{"urls": []}', b'{"urls": [1]}', b'{"urls": ["x"], "more": 1}'): is_problem(one(url, bad, 'application/json'), 422)
            is_problem(one(url, json.dumps(dict(urls=['http://example.org']*17)).encode(), 'application/json'), 413)
            is_problem(one(url, b' '*70_000, 'application/json'), 413)
        with api.running_api(practice, allow_urls=True) as url:
            assert 'not a public' in is_problem(httpx.post(url + '/v1/predict', json=dict(urls=[web.url('bear.jpg')]), timeout=60), 422)


# A new model

def test_renewal_under_load_drops_nothing(tmp_path, practice, bear):
    publish(tmp_path, 'v1', practice.bundle.path)
    stop, seen = threading.Event(), []
    def steadily():
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                r = client.post(url + '/v1/predict', content=bear, headers={'Content-Type': 'image/jpeg'})
                seen.append((r.status_code, r.json().get('version')))
    def served(version):
        deadline = time.monotonic() + 30
        while httpx.get(url + '/v1/model').json()['version'] != version and time.monotonic() < deadline: time.sleep(.05)
        assert httpx.get(url + '/v1/model').json()['version'] == version
    with api.running_api(tmp_path, reload_every=.05) as url, ThreadPoolExecutor(6) as crowd:
        for _ in range(6): crowd.submit(steadily)
        try:
            for v in ('v2', 'v3', 'v4'): publish(tmp_path, v, practice.bundle.path); served(v)
            publish(tmp_path, 'v5', practice.bundle.path, damaged=True); write_atomic(tmp_path/'current', '../v1'); write_atomic(tmp_path/'current', 'gone')
            time.sleep(.3); served('v4')
            publish(tmp_path, 'v6', practice.bundle.path); served('v6')
            write_atomic(tmp_path/'current', 'v1'); served('v1')  # and back
        finally: stop.set()
    assert {o for o,_ in seen} == {200} and {'v1', 'v4', 'v6'} <= {o for _,o in seen} <= {'v1', 'v2', 'v3', 'v4', 'v6'}


def test_a_damaged_version_is_tried_again_when_it_changes(tmp_path, practice):
    publish(tmp_path, 'v1', practice.bundle.path)
    tries = []
    live = api.LiveModel(tmp_path, lambda ok, clf: tries.append(ok))
    publish(tmp_path, 'v2', practice.bundle.path, damaged=True)
    assert not live.refresh() and not live.refresh() and live.clf.card['version'] == 'v1' and tries == [False]
    shutil.copy(practice.bundle.path/'model.onnx', tmp_path/'v2'/'model.onnx')  # the copy is finished
    os.utime(tmp_path/'v2'/'model.onnx', (1, 1))
    assert live.refresh() and live.clf.card['version'] == 'v2' and tries == [False, True]


@pytest.mark.parametrize('fault', [OSError(24, 'too many open files'), MemoryError(), RuntimeError("can't start new thread")])
def test_a_passing_fault_does_not_end_renewal(tmp_path, practice, monkeypatch, fault):
    publish(tmp_path, 'v1', practice.bundle.path)
    load, faults = api._load, [fault]
    def once(path):
        if faults: raise faults.pop()
        return load(path)
    with api.running_api(tmp_path, reload_every=.05) as url:
        monkeypatch.setattr(api, '_load', once)
        publish(tmp_path, 'v2', practice.bundle.path)
        deadline = time.monotonic() + 20
        while httpx.get(url + '/v1/model').json()['version'] != 'v2' and time.monotonic() < deadline: time.sleep(.05)
        assert httpx.get(url + '/v1/model').json()['version'] == 'v2' and not faults


# Crowds and slow clients

def slow_model(practice, seconds):
    class Slow(BearClassifier):
        def predict(self, source): time.sleep(seconds); return super().predict(source)
    return Slow(practice.bundle)


def test_a_full_line_says_when_to_come_again(practice, bear):
    with api.running_api(slow_model(practice, .3), concurrency=1, queue=2) as url, ThreadPoolExecutor(12) as crowd:
        rs = list(crowd.map(lambda _: one(url, bear), range(12)))
        assert {r.status_code for r in rs} == {200, 503} and sum(r.status_code == 200 for r in rs) >= 3
        for r in rs:
            if r.status_code == 503: assert 'try again' in is_problem(r, 503) and int(r.headers['retry-after']) >= 1
        assert one(url, bear).status_code == 200 and httpx.get(url + '/readyz').status_code == 200


def test_what_takes_too_long_is_given_up(practice, bear):
    with api.running_api(slow_model(practice, .5), concurrency=1, timeout=.8) as url:
        r = several(url, *[('a.jpg', bear)]*6)
        assert 'try again' in is_problem(r, 503)
        assert one(url, bear).status_code == 200


def test_uploads_together_stay_within_the_memory(practice):
    "Each is small enough, all of them are not: some are told to come again, and none of their bytes stay"
    with api.running_api(practice, memory=4 * 2**20, max_bytes=2**20) as url:
        port = int(url.split(':')[-1])
        def half():
            c = socket.create_connection(('127.0.0.1', port)); c.settimeout(20)
            c.sendall(b'POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 1040000\r\n\r\n' + bytes(1_000_000))
            return c
        open_ = [half() for _ in range(6)]
        deadline = time.monotonic() + 20
        while 'status="503"' not in httpx.get(url + '/metrics').text and time.monotonic() < deadline: time.sleep(.05)
        for c in open_: c.close()
        assert 'status="503"' in httpx.get(url + '/metrics').text
        while 'bear_held_bytes 0.0' not in httpx.get(url + '/metrics').text and time.monotonic() < deadline: time.sleep(.05)
        assert 'bear_held_bytes 0.0' in httpx.get(url + '/metrics').text


def test_slow_uploads_hold_nobody_up_and_end(practice, bear, monkeypatch):
    monkeypatch.setattr(api, '_PATIENCE', 1.)
    with api.running_api(practice, concurrency=1, queue=1, timeout=3.) as url:
        port = int(url.split(':')[-1])
        bodies = [socket.create_connection(('127.0.0.1', port)) for _ in range(40)]
        for c in bodies: c.sendall(b'POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n' % len(bear) + bear[:100])
        heads = [socket.create_connection(('127.0.0.1', port)) for _ in range(40)]
        for i,c in enumerate(heads): c.sendall(b'' if i % 2 else b'POST /v1/pre')
        assert one(url, bear).status_code == 200  # while 80 connections dawdle
        for c in heads:
            c.settimeout(20); assert c.recv(100) == b''; c.close()
        for c in bodies:
            c.settimeout(20); said = c.recv(65536)
            assert said.startswith(b'HTTP/1.1 408') and b'problem+json' in said; c.close()
        assert one(url, bear).status_code == 200


def test_no_line_is_no_readiness(practice, bear):
    "Where uploads hold all places the balancer is told, as the clients are"
    with api.running_api(practice, concurrency=1, queue=1, timeout=20.) as url:
        port, open_ = int(url.split(':')[-1]), []
        try:
            while len(open_) < 500 and httpx.get(url + '/readyz').status_code == 200:
                for _ in range(20):
                    open_.append(c := socket.create_connection(('127.0.0.1', port)))
                    c.sendall(b'POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n' % len(bear) + bear[:100])
                time.sleep(.1)
            is_problem(httpx.get(url + '/readyz'), 503); is_problem(one(url, bear), 503)
            assert httpx.get(url + '/healthz').status_code == 200
        finally:
            for c in open_: c.close()


@pytest.mark.parametrize('head', [b'POST /v1/predict HTTP/1.1\r\nHost: x\r\n' + b'X-Long: ' + b'a'*2**20, b'GET /' + b'a'*2**20, b'POST / HTTP/1.1\r\n' + b'A: b\r\n'*2**17], ids=['header', 'address', 'headers'])
def test_headers_have_an_end(url, bear, head):
    with socket.create_connection(('127.0.0.1', int(url.split(':')[-1]))) as c:
        c.settimeout(20); sent = 0
        try:
            for i in range(0, len(head), 2**14): c.sendall(head[i:i + 2**14]); sent += 2**14; time.sleep(.002)
            while said := c.recv(65536): assert said.split(b'\r\n')[0].split(b' ')[1] in (b'400', b'414', b'431')
        except OSError: pass
        assert sent < len(head), 'all of it was taken'
    assert one(url, bear).status_code == 200


def test_a_connection_is_kept_between_requests(url, bear, monkeypatch):
    "The clock for headers that do not come is no clock for a client that thinks"
    with httpx.Client() as client:
        ports = set()
        for _ in range(3):
            r = client.post(url + '/v1/predict', content=bear, headers={'Content-Type': 'image/jpeg'})
            ports.add(r.extensions['network_stream'].get_extra_info('client_addr')); time.sleep(.2)
    assert r.status_code == 200 and len(ports) == 1


def test_clients_that_hang_up(url, bear):
    port = int(url.split(':')[-1])
    for i in range(30):
        c = socket.create_connection(('127.0.0.1', port))
        c.sendall(b'POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n' % len(bear) + bear[:len(bear) * (i % 2) // 2 + 1000])
        if i % 3: c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        c.close()
    for junk in (b'\x16\x03\x01\x02\0\x01', b'SSH-2.0-x\r\n\r\n', b'GET / HTTP/9.9\r\n\r\n', b'POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: image/jpeg\r\n\r\nzz\r\n'):
        with socket.create_connection(('127.0.0.1', port)) as c:
            c.settimeout(20); c.sendall(junk)
            said = c.recv(65536)
            assert said == b'' or b' 400 ' in said.split(b'\r\n')[0] + b' ' or b' 404 ' in said.split(b'\r\n')[0] + b' '
    assert one(url, bear).status_code == 200


def test_a_websocket_gets_no_further(url):
    with socket.create_connection(('127.0.0.1', int(url.split(':')[-1]))) as c:
        c.settimeout(20)
        c.sendall(b'GET /v1/model HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n')
        assert c.recv(65536).startswith((b'HTTP/1.1 200', b'HTTP/1.1 400'))


# The end

@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGTERM to catch')
def test_sigterm_finishes_what_has_begun(tmp_path, practice, bear):
    with Server(tmp_path, practice.bundle.path) as s:
        c = socket.create_connection(('127.0.0.1', s.port)); c.settimeout(30)
        c.sendall(b'POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n' % len(bear) + bear[:500])
        idle = socket.create_connection(('127.0.0.1', s.port)); idle.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n'); idle.recv(65536)
        deadline = time.monotonic() + 20
        while s.metric('bear_held_bytes') < 500 and time.monotonic() < deadline: time.sleep(.05)
        s.p.send_signal(signal.SIGTERM)
        while time.monotonic() < deadline:  # no new connections
            try: socket.create_connection(('127.0.0.1', s.port)).close(); time.sleep(.05)
            except OSError: break
        assert s.p.poll() is None
        c.sendall(bear[500:])
        said = b''.join(iter(lambda: c.recv(65536), b''))
        assert said.startswith(b'HTTP/1.1 200') and json.loads(said.split(b'\r\n\r\n', 1)[1])['answers'][0]['error'] is None
        assert s.p.wait(30) == 0
    assert s.said[1] == ''


def test_a_port_in_use_and_a_model_that_is_not_there(practice, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken, pytest.raises(DataError, match='another port'): api.serve_api(practice, port=taken.getsockname()[1])
    with pytest.raises(Exception, match='train one'): api.create_app(tmp_path/'nothing')


def test_without_the_extra_the_message_says_what_to_install(tmp_path):
    for missing in ('fastapi', 'python_multipart'):
        code = f"import sys; sys.modules['{missing}'] = None\ntry: import bear_classifier.api\nexcept ModuleNotFoundError as e: print(e.name, e)"
        out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
        assert missing in out and "pip install 'bear_classifier[api]'" in out


# The schema

def test_schema_is_complete(url):
    schema = httpx.get(url + '/openapi.json').json()
    post = schema['paths']['/v1/predict']['post']
    assert {'multipart/form-data', 'image/jpeg'} <= set(post['requestBody']['content']) and 'application/json' not in post['requestBody']['content']
    assert {'200', '400', '408', '413', '415', '422', '500', '503'} == set(post['responses'])
    assert schema['components']['schemas']['Answers']['examples'] and schema['components']['schemas']['ProblemDetails']['examples']
    example = schema['components']['schemas']['Answers']['examples'][0]
    assert api.Answers.model_validate(example).model_dump(exclude_none=True) == example


def test_schemathesis_finds_nothing(practice, bear, tmp_path):
    "Requests made from the schema, right and wrong ones: each answer is one that the schema promises"
    schemathesis = pytest.importorskip('schemathesis', reason='schemathesis makes the requests')
    from hypothesis import HealthCheck, Phase, given, settings, strategies as st
    from schemathesis.checks import load_all_checks
    from schemathesis.specs.openapi.checks import positive_data_acceptance
    from bear_classifier.fetch import Limits
    load_all_checks()
    pictures = st.sampled_from([bear, bear[:2000], b'', b'<svg/>']) | st.binary(max_size=200)
    for o in api._RAW: schemathesis.openapi.media_type(o, pictures)
    with api.running_api(practice, api_key='key', allow_urls=Limits(connect=.1, read=.1, total=.2, retries=0)) as url:
        schema = schemathesis.openapi.from_url(url + '/openapi.json', headers={'Authorization': 'Bearer key'})
        seen = set()
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in schemathesis.GenerationMode:
                @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case):
                    r = case.call(headers={'Authorization': 'Bearer key'}, timeout=30)
                    seen.add((case.path, r.status_code))
                    # a form of random bytes is right by the schema and is no picture: only a person could say more
                    case.validate_response(r, excluded_checks=[positive_data_acceptance])
                try: ask()
                except schemathesis.errors.SchemathesisError as e: raise AssertionError(f'{operation.label}: {e}') from e
                except Exception as e:
                    if 'Unsatisfiable' not in type(e).__name__: raise  # nothing wrong can be sent to an address that takes nothing
    assert {('/v1/predict', 200), ('/v1/predict', 422), ('/v1/model', 200), ('/healthz', 200)} <= seen


def test_the_short_way_and_the_frameworks_way_are_one(practice, bear):
    "Mounted inside another app, the address is answered through the framework: the same answers, the same refusals"
    from fastapi import FastAPI
    inner, outer = api.create_app(practice, api_key='key'), FastAPI()
    outer.mount('/bears', inner)
    async def ask(app, path, **kw):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://x') as c: return await c.post(path, **kw)
    async def both(query='', **kw): return [await ask(inner, '/v1/predict' + query, **kw), await ask(outer, '/bears/v1/predict' + query, **kw)]
    key = {'Authorization': 'Bearer key'}
    try:
        for query, kw in (('', dict(content=bear, headers=key | {'Content-Type': 'image/jpeg'})), ('?map=1', dict(files={'files': ('a.jpg', bear)}, headers=key)), ('?map=perhaps', dict(files={'files': bear}, headers=key)),
                          ('', dict(files={'files': bear})), ('', dict(files={'files': bear}, headers={'Authorization': 'Bearer keys'})), ('', dict(content=b'x', headers=key)), ('', dict(files={'files': b''}, headers=key))):
            a, b = asyncio.run(both(query, **kw))
            assert (a.status_code, a.json(), a.headers['content-type']) == (b.status_code, b.json(), b.headers['content-type'])
    finally: inner.state.service.crew.stop()
