"""The chaos test: six nodes run jobs while nodes, the network and Redis fail in many ways.

``python -m tests.chaos --help``. The soak (:mod:`tests.soak`) kills nodes and Redis. Chaos also
stops, slows, hangs and starves them, and breaks the network between them. It uses the nodes, jobs,
ledger and report of the soak.

    run.py      one run, from the first job to the verdict
    app.py      more tasks, and the code of faults inside a node
    load.py     the jobs and their priorities
    fleet.py    six nodes, three of them behind a network that can fail
    faults.py   the faults of nodes, the network and Redis
    deaths.py   the times at which each node was declared dead
    verdict.py  the promises, and the jobs that broke them
"""
