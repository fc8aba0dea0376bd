"""A gathering that is killed goes on where it was: nothing lost, nothing that was kept is fetched twice."""
import io, os, random, signal, subprocess, sys, textwrap, time
import numpy as np, pytest
from PIL import Image
pytest.importorskip('httpx'); pytest.importorskip('imagehash')
from bear_classifier.core import DataError, image_files, sha256_of
from bear_classifier.gather import DatasetVersion, Manifest, add_files, read_manifest
from webdouble import Web

N, KILLS = (300, 20) if os.environ.get('BEAR_LONG') else (90, 5)
posix = pytest.mark.skipif(os.name != 'posix', reason='kill -9 is a signal')

def picture(seed):
    im = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((96, 96))
    f = io.BytesIO(); im.save(f, 'JPEG', quality=90)
    return f.getvalue()

RUN = textwrap.dedent('''
    import sys
    from bear_classifier.fetch import Limits
    from bear_classifier.gather import gather
    import httpx, anyio, imagehash, scipy.fftpack
    print('ready', flush=True)
    gather(sys.argv[1], urls=sys.argv[2], progress=False, limits=Limits(connections=4, per_host=4, allow_private=True))
    print('done', flush=True)''')

def start(dest, urls, code=RUN):
    p = subprocess.Popen([sys.executable, '-c', code, str(dest), str(urls)], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'ready\n'
    return p

def wait_for_lines(process, dest, n):
    "Let it work until the manifest has `n` lines"
    path = dest/'manifest.jsonl'
    while process.poll() is None and (path.read_bytes().count(b'\n') if path.exists() else 0) < n: time.sleep(.005)

@posix
def test_killed_at_random_moments(tmp_path):
    dest, rng, sent = tmp_path/'bears', random.Random(7), {f'{i}.jpg': picture(i) for i in range(N)}
    with Web(sent, latency=(.02, .1)) as web:
        urls = tmp_path/'urls.csv'
        urls.write_text('url,label\n' + ''.join(f'{web.url(o)},{"grizzly" if i%2 else "black"}\n' for i,o in enumerate(sent)))
        kills, settled, progress = 0, {}, []
        while True:
            p = start(dest, urls)
            if kills < KILLS: wait_for_lines(p, dest, len(settled) + rng.randrange(int(1.6*N/KILLS))); time.sleep(rng.uniform(0, .05))
            if kills < KILLS and p.poll() is None: p.send_signal(signal.SIGKILL); kills += 1
            said = p.communicate(timeout=120)[0]
            kept = {o['url']: o for o in read_manifest(dest) if o['status'] == 'kept'}
            for url, row in kept.items():
                place, aside = dest/row['path'], dest/'.partial'/row['path'].replace('/', '~')
                assert sha256_of(place if place.exists() else aside) == row['sha256'], 'a line whose image is nowhere'
            asked = dict(web.asked)
            for url, count in settled.items(): assert asked['/' + url.rsplit('/', 1)[1]] == count, f'{url} was kept, and fetched again'
            settled = {url: asked['/' + url.rsplit('/', 1)[1]] for url in kept}
            progress.append(len(kept))
            if 'done' in said: break
        assert kills == KILLS, f'it was done after {kills} kills: {progress}'
    files = image_files(dest)
    files = [p for p in files if p.parent != dest.resolve()]
    assert sorted(sha256_of(p) for p in files) == sorted(sha256_of(o) for o in sent.values())
    assert all(p.stem == sha256_of(p)[:16] for p in files) and progress == sorted(progress)
    assert not (dest/'.partial').exists() and len(DatasetVersion.of(dest).pairs) == N
    print(f'{KILLS} kills, kept after each: {progress}; asked {sum(asked.values())} times for {N} images')

FAULTS = dict(
    before_the_note='Ledger = gather_module.Manifest; old = Ledger.note\ndef note(self, row):\n    if len(self.fresh) == 3: os.kill(os.getpid(), 9)\n    return old(self, row)\nLedger.note = note',
    half_a_line='Ledger = gather_module.Manifest; old = Ledger.note\ndef note(self, row):\n    if len(self.fresh) == 3: self.file.write(b\'{"url": "http://x\'); self.file.flush(); os.kill(os.getpid(), 9)\n    return old(self, row)\nLedger.note = note',
    before_the_move='old = gather_module.Manifest._move\ndef move(self, *a):\n    if len(self.fresh) == 3: os.kill(os.getpid(), 9)\n    return old(self, *a)\ngather_module.Manifest._move = move')

@posix
@pytest.mark.parametrize('fault', FAULTS)
def test_killed_at_the_worst_moment(fault, tmp_path):
    dest, urls = tmp_path/'bears', tmp_path/'urls.txt'
    with Web({f'{i}.jpg': picture(i) for i in range(6)}) as web:
        urls.write_text(''.join(f'{web.url(o)} bear\n' for o in web.files))
        p = start(dest, urls, 'import os, bear_classifier.gather as gather_module\n' + FAULTS[fault] + RUN)
        assert p.wait(60) == -signal.SIGKILL
        kept = [o['url'] for o in read_manifest(dest) if o['status'] == 'kept']
        asked = dict(web.asked)
        assert 'done' in start(dest, urls).communicate(timeout=60)[0]
        assert all(web.asked['/' + o.rsplit('/', 1)[1]] == asked['/' + o.rsplit('/', 1)[1]] for o in kept)
    rows = [o for o in read_manifest(dest) if o['status'] == 'kept']
    assert len(rows) == 6 and all(sha256_of(dest/o['path']) == o['sha256'] for o in rows)
    assert len(DatasetVersion.of(dest).pairs) == 6

@posix
def test_interrupted_by_a_person(tmp_path):
    "Ctrl-C ends it within moments, though a host is silent, and the next run goes on"
    dest, urls = tmp_path/'bears', tmp_path/'urls.txt'
    with Web({f'{i}.jpg': picture(i) for i in range(30)}, latency=(.02, .05)) as web:
        urls.write_text(''.join(f'{web.url(o)} bear\n' for o in ('silent', *web.files)))
        p = start(dest, urls)
        wait_for_lines(p, dest, 8)
        p.send_signal(signal.SIGINT)
        assert p.wait(60) != 0
        kept = len([o for o in read_manifest(dest) if o['status'] == 'kept'])
        urls.write_text(''.join(f'{web.url(o)} bear\n' for o in web.files))
        assert kept >= 8 and 'done' in start(dest, urls).communicate(timeout=60)[0]
    assert len(DatasetVersion.of(dest).pairs) == 30

@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError])
def test_an_image_that_could_not_be_moved_is_moved_by_the_next(error, tmp_path, monkeypatch):
    def no(*_): raise error
    with pytest.raises(error), Manifest(tmp_path/'set') as m, monkeypatch.context() as p:
        p.setattr(Manifest, '_move', no)
        m.keep(picture(1), dict(label='bear', url='http://a.example/1'))
    with Manifest(tmp_path/'set'): pass
    row, = read_manifest(tmp_path/'set')
    assert sha256_of(tmp_path/'set'/row['path']) == row['sha256'] and not (tmp_path/'set'/'.partial').exists()

def test_a_folder_that_cannot_be_written_ends_the_copying(tmp_path, monkeypatch):
    (tmp_path/'mine'/'bear').mkdir(parents=True); (tmp_path/'mine'/'bear'/'1.jpg').write_bytes(picture(1))
    def no(*_): raise OSError('no room')
    with monkeypatch.context() as p, pytest.raises(OSError, match='no room'): p.setattr(Manifest, '_move', no); add_files(tmp_path/'mine', tmp_path/'set', progress=False)
    with Manifest(tmp_path/'set'): pass
    assert len(DatasetVersion.of(tmp_path/'set').pairs) == 1

@posix
def test_one_writer_at_a_time(tmp_path):
    with Manifest(tmp_path/'set'), pytest.raises(DataError, match='another process'): Manifest(tmp_path/'set')
    with Manifest(tmp_path/'set') as m: m.keep(picture(1), dict(label='bear', url='http://a.example/1'))
