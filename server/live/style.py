"""The live page's style: the report's own, in a dark room too. Its hash is what the browser lets in."""

import base64
import hashlib

from server.page import STYLE as _REPORT

_OWN = """
header { display: block; }
h1 { margin-bottom: .3rem; }
.well { border: 1px solid var(--line); border-left: .6rem solid #00684b; padding: .5rem 1rem;
  margin: 1.2rem 0 0; }
.warning ul { margin: .2rem 0; }
.warning code { color: inherit; }
.old { border: 2px dashed var(--ink); padding: .5rem 1rem; margin: 1.2rem 0 0; }
.tiles { grid-template-columns: repeat(4, 1fr); margin-top: 1.2rem; }
.wide { overflow-x: auto; }
.rounds th, .rounds td { white-space: nowrap; }
.rounds tbody th { min-width: 6rem; padding-right: 1rem; }
.rounds tbody tr:last-child td, .rounds tbody tr:last-child th { color: var(--soft);
  font-size: .85em; font-weight: 400; border-bottom: 0; }
.late { border-style: dashed; }
.asked, .away { color: var(--soft); }
.key > span { font-size: .9rem; }
.now { display: block; text-align: left; min-width: 9rem; }
.now small { display: block; color: var(--soft); font-size: .85em; }
.rounds .answered, .rounds .flagged, .rounds .asked { font-size: 1.15em; line-height: 1; }
.bar { display: block; width: 100%; height: .45rem; margin-top: .25rem; }
.bar rect { fill: var(--line); }
.bar .part { fill: var(--bar); }
.bar .over { fill: var(--red); }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2.5rem; }
a { color: inherit; }
:root { --bar: #0072b2; color-scheme: light; }
@media (max-width: 44rem) { .tiles, .two { grid-template-columns: 1fr 1fr; }
  body { padding: 1rem; } .two { display: block; } }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #d9dde1; --soft: #9aa3ab; --line: #3a4047; --pale: #1b1f23; --red: #d9534f;
    --bar: #56a8dc; color-scheme: dark; }
  body { background: #14171a; }
  .warning { background: #2a1716; color: #f2b8b5; }
  .answered { color: #4cc3a0; } .flagged { color: #e69f4c; } .well { border-left-color: #4cc3a0; }
  figure img { filter: invert(.92) hue-rotate(180deg); }
}
@media print { .screen { display: none; } .wide { overflow: visible; }
  .tiles { grid-template-columns: repeat(4, 1fr); } }
"""

STYLE = _REPORT + _OWN
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
