"""Download and verify 600 images from a slow, sometimes failing web: ours against fastai's download_images and verify_images.

The web is a server on the loopback interface, in a process of its own, with 50 to 300 ms of latency; two in a hundred addresses
fail, each in another way. The addresses are spread over eight ports, as a search's are over hosts. Both sides run at their
defaults, each in a fresh process; imports of theirs are not counted."""
import argparse, json, platform, random, statistics, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAILURES = ('missing', 'html', 'busy', 'status', 'garbage', 'loop')  # none that is cut off in the middle: fastai keeps half an image as a whole one

def pictures(folder, n, size):
    "Distinct JPEG files of about a web photo's weight"
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        grain = rng.integers(-14, 14, (size[1], size[0], 1))
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(folder/f'{i}.jpg', quality=80)

def addresses(ports, n, n_bad, hosts):
    good = [f'http://127.0.0.1:{ports[i % hosts]}/{i}.jpg?w=1024' for i in range(n - n_bad)]
    bad = [f'http://127.0.0.1:{ports[i % hosts]}/{FAILURES[i % len(FAILURES)]}/{"403" if FAILURES[i % len(FAILURES)] == "status" else f"{i}.jpg"}' for i in range(n_bad)]
    urls = good + bad
    random.Random(0).shuffle(urls)
    return urls

def theirs(urls, dest):
    from fastai.vision.utils import download_images, verify_images
    from fastai.data.transforms import get_image_files
    start = time.perf_counter()
    download_images(dest, urls=urls)
    verify_images(get_image_files(dest)).map(Path.unlink)
    return dict(seconds=time.perf_counter() - start, failed_named=0)

def ours(urls, dest):
    from bear_classifier.fetch import Limits
    start = time.perf_counter()
    from bear_classifier.gather import download
    rows = download(urls, dest, 'bear', limits=Limits(allow_private=True), progress=False)
    return dict(seconds=time.perf_counter() - start, failed_named=sum(o['status'] == 'failed' and bool(o['reason']) for o in rows))

def side(name, urls, folder):
    "Run one side in a fresh process"
    dest = Path(folder)/name; dest.mkdir()
    (dest/'urls.json').write_text(json.dumps(urls))
    out = subprocess.run([sys.executable, __file__, '--side', name, '--dest', str(dest)], capture_output=True, text=True)
    if out.returncode: sys.exit(out.stderr)
    return json.loads(out.stdout.strip().splitlines()[-1]), kept(dest)

def kept(dest):
    from bear_classifier.core import image_files, sha256_of
    return {sha256_of(p) for p in image_files(dest)}

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--quick', action='store_true', help='a small version, in seconds')
    p.add_argument('--repeat', type=int, default=1, help='medians of so many runs')
    p.add_argument('--hosts', type=int, default=8, help='ports that the addresses are spread over')
    p.add_argument('--side', choices=['ours', 'theirs'], help=argparse.SUPPRESS)
    p.add_argument('--dest', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.side:
        urls = json.loads((Path(a.dest)/'urls.json').read_text())
        return print(json.dumps((ours if a.side == 'ours' else theirs)(urls, Path(a.dest))))
    n = 60 if a.quick else 600
    n_bad = max(n // 50, 4 if a.quick else 12)
    with tempfile.TemporaryDirectory() as tmp:
        served = Path(tmp)/'served'; served.mkdir()
        pictures(served, n - n_bad, (160, 120) if a.quick else (640, 480))
        latency = ('.005', '.03') if a.quick else ('.05', '.3')
        server = subprocess.Popen([sys.executable, str(ROOT/'tests'/'webdouble.py'), str(served), '--ports', str(a.hosts), '--latency', *latency], stdout=subprocess.PIPE, text=True)
        try:
            urls = addresses(json.loads(server.stdout.readline()), n, n_bad, a.hosts)
            runs = []
            for k in range(a.repeat):
                (Path(tmp)/str(k)).mkdir()
                runs.append([side(o, urls, Path(tmp)/str(k)) for o in ('theirs', 'ours')])
        finally: server.terminate(); server.wait(10)
    t, o = ([run[i] for run in runs] for i in (0, 1))
    def told(side): return dict(seconds=round(statistics.median(s['seconds'] for s,_ in side), 2), failed_named=side[0][0]['failed_named'], kept=len(side[0][1]))
    result = dict(bench='gather', ours=told(o), theirs=told(t),
        ratio=dict(speed=round(statistics.median(x[0]['seconds'] / y[0]['seconds'] for x,y in zip(t, o)), 2)),
        machine=dict(cpus=__import__('os').cpu_count(), python=platform.python_version(), system=platform.system()))
    result['ours']['same_images'] = all(x[1] == y[1] for x,y in zip(t, o))
    result['ours']['failures'] = n_bad
    print(json.dumps(result))

if __name__ == '__main__': main()
