"Take the README's picture: the dashboard answering for a drawn bear, in Chromium"
import io, sys, tempfile
from pathlib import Path
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
import serving

ROOT = Path(__file__).resolve().parent.parent
DEST = ROOT/'nbs'/'images'/'dashboard.png'
BEAR = ROOT/'bear_classifier'/'static'/'sample-grizzly.jpg'

def take(dest=DEST):
    "Write the picture, small enough for a README, and give its path"
    with tempfile.TemporaryDirectory() as tmp, serving.server(tmp, model=None) as s, serving.chromium() as b:
        page = serving.visit(b.new_context(viewport=dict(width=900, height=960), device_scale_factor=1.25), s.url)
        serving.classify(page, [dict(name='bear-in-the-meadow.jpg', mimeType='image/jpeg', buffer=BEAR.read_bytes())])
        page.get_by_role('switch').click()
        page.evaluate('scrollTo(0, 0)'); page.wait_for_timeout(800)
        im = Image.open(io.BytesIO(page.screenshot()))
    dest.parent.mkdir(exist_ok=True)
    im.convert('RGB').quantize(256).save(dest, optimize=True)
    return dest

if __name__ == '__main__': print(f'{take()}: {DEST.stat().st_size//1000} kB')
