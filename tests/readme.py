"Write README.md from nbs/index.ipynb: nbdev's own processing, then nbconvert; no quarto"
import re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def render():
    "The README as markdown, from the notebook as it is"
    from nbconvert import MarkdownExporter
    from nbdev.process import NBProcessor
    from nbdev.serve import FilterDefaults
    import nbformat
    nb = NBProcessor(ROOT/'nbs'/'index.ipynb', procs=FilterDefaults().procs())
    nb.process()
    cells = [dict(c) for c in nb.nb.cells if c.source.strip()]
    for c in cells:
        c['metadata'] = {}
        c['source'] = re.sub(r'^#\|.*\n?', '', c['source'], flags=re.M)
    text, _ = MarkdownExporter().from_notebook_node(nbformat.from_dict(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    text = re.sub(r'(\]\(|src=")(?=images/)', r'\1nbs/', text)          # pictures lie beside the notebook
    text = re.sub(r'\]\((\w+)\.ipynb\)', r'](nbs/\1.ipynb)', text)
    return '<!-- Written by `make readme` from nbs/index.ipynb: edit that -->\n\n' + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


if __name__ == '__main__':
    (ROOT/'README.md').write_text(render(), encoding='utf-8')
    print('README.md written', file=sys.stderr)
