"""The coordinator's live page: how a study stands, read-only, for people at this very machine.

    address.py   where it may listen: loopback and nothing else
    look.py      what is read from disk, and read again only when it changed
    figures.py   epsilon and discrimination, worked out beside the page
    judging.py   ... in a process that ends
    words.py     codes, states and times in words
    rounds.py    the hospitals x rounds matrix
    hospitals.py the table of hospitals
    attention.py what somebody should look at now
    document.py  the HTML: no script, nothing fetched
    style.py     its style, for a dark room and for paper
    app.py       one request and its answer
    serve.py     ... on a socket
    command.py   `intramural-server page`
    __main__.py  the process below `intramural-server start`

It shows nothing that `intramural-server status` and `report.html` do not say. It reads the files that the
run writes anyway and asks no other process for anything, so a run is the same with it and without.
"""
