"""Chaos: a fleet at work while everything around it misbehaves, and what became of each job.

``python -m tests.chaos --help``. The soak (:mod:`tests.soak`) kills nodes and Redis. Chaos also
stops, slows, hangs and starves them, and breaks the network between them. Nodes, jobs, ledger and
report are those of the soak.

    run.py      one run, from the first job to the verdict
    app.py      more tasks, and what the faults need inside a node
    load.py     which jobs are sent, with which priorities
    fleet.py    six nodes, three of them behind a network that can fail
    faults.py   what befalls nodes, the network and Redis
    deaths.py   when the fleet took which node for dead
    verdict.py  the columns that must be zero
"""
