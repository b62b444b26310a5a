"""The soak: a fleet at work while random faults befall it, and what became of each job.

``python -m tests.soak --help``. With ``--plain`` the same jobs and faults meet plain Celery.

    run.py      one soak, from the first job to the verdict
    app.py      the tasks; each writes its begin and end to the ledger
    load.py     which jobs are sent, and when
    fleet.py    six workers, and what can be done to them
    faults.py   what befalls workers and Redis, and how long each rescue took
    ledger.py   what ran, where and when
    verdict.py  what was promised, and which jobs broke it
    report.py   the tables
"""
