"""The chapter's app against this dashboard, each under Voila with a MobileNetV2, in Chromium.

ready: seconds from opening the page to an upload button that can be used.  memory: megabytes of a visitor's kernel after an answer.
answer: seconds from choosing a 16-megapixel photo to the verdict, on a page whose connection stands: `connected` says when it does, since the
dashboard can be used before and keeps what is chosen until then.  Medians; a ratio over 1 means the dashboard is better.
"""
import argparse, json, os, platform, statistics, subprocess, sys, tempfile, time
from pathlib import Path
import nbformat, numpy as np, psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tests'))
import serving
from bear_classifier.practice import draw_bear, practice_dataset

# The app as the chapter teaches it, with what current ipywidgets call their values
CHAPTER = ['from fastai.vision.all import *\nfrom fastai.vision.widgets import *',
           "learn_inf = load_learner('bears.pkl')",
           'btn_upload = widgets.FileUpload()\nout_pl = widgets.Output()\nlbl_pred = widgets.Label()',
           '''def on_data_change(change):
    lbl_pred.value = ''
    img = PILImage.create(bytes(btn_upload.value[-1].content))
    out_pl.clear_output()
    with out_pl: display(img.to_thumb(128, 128))
    pred, pred_idx, probs = learn_inf.predict(img)
    lbl_pred.value = f'Prediction: {pred}; Probability: {probs[pred_idx]:.04f}'
btn_upload.observe(on_data_change, names=['value'])''',
           "display(VBox([widgets.Label('Select your bear!'), btn_upload, out_pl, lbl_pred]))"]

MAKE = '''import sys, torch
from pathlib import Path
from fastai.vision.all import ImageDataLoaders, Learner, Resize, models
data, out = map(Path, sys.argv[1:3])
torch.manual_seed(0)
dls = ImageDataLoaders.from_folder(data, valid_pct=.2, seed=0, item_tfms=Resize(224), num_workers=0)
# a plain Learner: `vision_learner` of fastai 2.8.7 does not find where to cut this body
Learner(dls, models.mobilenet_v2(weights=None, num_classes=3)).export(out/'bears.pkl')
from bear_classifier.data import bear_dls
from bear_classifier.export import export_bundle
from bear_classifier.train import bear_learner, probe
if len(sys.argv) == 3:
    learn = bear_learner(bear_dls(data, bs=8), 'mobilenet_v2', pretrained=False)
    for m in learn.model.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.momentum = None  # average over all batches: weights stay random, and what they give keeps its scale
    learn.model.train()
    with torch.no_grad():
        for x, _ in learn.dls.train: learn.model(x)
    export_bundle(probe(learn), out/'ours')
'''

def make(tmp, model):
    "A chapter-style app folder, and our bundle of the same body"
    data, app = practice_dataset(tmp/'data', n_per_class=12), tmp/'app'
    app.mkdir()
    r = subprocess.run([sys.executable, '-c', MAKE, data, app, *(['made'] if model else [])], capture_output=True, text=True)
    if r.returncode: sys.exit(r.stderr[-3000:])
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CHAPTER])
    nb.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
    nbformat.write(nb, app/'bears_app.ipynb')
    return app, model or app/'ours'

def photo(path, side):
    "A bear with grain, as a camera of that many pixels a side stores it"
    w, h = side, side*3//4
    im = np.asarray(draw_bear('grizzly', 3, 512).resize((w, h)))//2 + 40
    Image.fromarray(im + np.random.default_rng(0).integers(0, 20, (h, w, 1), dtype=np.uint8)).save(path, quality=92)
    return path

class Chapter:
    "The chapter's notebook under Voila as it comes"
    ready, button, connected, done = '.widget-upload', '.widget-upload', '() => true', "() => /Probability: 0/.test(document.body.innerText)"
    def __init__(self, folder, log):
        self.url = f'http://127.0.0.1:{(port := serving.free_port())}/'
        self.proc = subprocess.Popen([sys.executable, '-m', 'voila', 'bears_app.ipynb', f'--port={port}', '--no-browser'], cwd=folder, stdout=open(log, 'w'), stderr=subprocess.STDOUT)
        while 'is running at' not in Path(log).read_text(): time.sleep(.1)
    def kernels(self): return [p for p in psutil.Process(self.proc.pid).children(recursive=True) if 'ipykernel_launcher' in ' '.join(p.cmdline())]
    def stop(self): self.proc.terminate(); self.proc.wait(20)

class Ours(serving.Server): ready, button, connected, done = serving.READY, '.drop .solid', '() => window.bears.model', "() => document.querySelector('.card[data-state=done]')"

def kernel_of(page, site):
    kid = page.evaluate("JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId")
    return next(p for p in site.kernels() if kid in ' '.join(p.cmdline()))

def visit(browser, site, files):
    "Seconds to ready and to a connection, megabytes of the kernel, seconds to an answer for each file"
    c = browser.new_context(); page = c.new_page(); choosers = []
    page.on('filechooser', lambda o: choosers.append(o))
    t = time.perf_counter(); page.goto(site.url, wait_until='commit')
    page.wait_for_selector(site.ready, timeout=120_000); ready = time.perf_counter() - t
    page.wait_for_function(site.connected, timeout=120_000, polling=20); connected = time.perf_counter() - t
    answers = []
    for f in files:
        page.click(site.button)
        while not choosers: page.wait_for_timeout(20)
        t = time.perf_counter(); choosers.pop().set_files([f])
        page.wait_for_function(site.done, timeout=120_000, polling=20); answers.append(time.perf_counter() - t)
    memory = kernel_of(page, site).memory_info().rss / 1e6
    c.close()
    return ready, connected, memory, answers

def measure(browser, site, n, f, pause):
    rows = []
    for _ in range(n): rows.append(visit(browser, site, [f])); time.sleep(pause)
    return dict(zip(('ready', 'connected', 'memory', 'answer'), (statistics.median(o) for o in zip(*((a, b, c, d[0]) for a, b, c, d in rows)))))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='one visit each, with a small photo')
    p.add_argument('--model', type=Path, default=serving.MODEL, help='our bundle; made from a MobileNetV2 without pretrained weights if not given')
    a = p.parse_args()
    n, side = (1, 1200) if a.quick else (5, 4608)
    with tempfile.TemporaryDirectory() as tmp, serving.chromium() as b:
        tmp = Path(tmp)
        app, model = make(tmp, a.model); f = photo(tmp/'photo.jpg', side)
        theirs_site = Chapter(app, tmp/'theirs.log')
        try: theirs = measure(b, theirs_site, n, f, 1)
        finally: theirs_site.stop()
        ours_site = Ours(tmp/'ours.log', model=str(Path(model).resolve()))
        try: ours = measure(b, ours_site, n, f, 3)
        finally: ours_site.stop()
    round3 = lambda d: {k: round(v, 3) for k, v in d.items()}
    print(json.dumps(dict(bench='app', ours=round3(ours), theirs=round3(theirs), ratio=round3({k: theirs[k]/ours[k] for k in ('ready', 'connected', 'memory', 'answer')}),
                          machine=dict(cpus=os.cpu_count(), python=platform.python_version(), system=platform.system()))))

if __name__ == '__main__': main()
