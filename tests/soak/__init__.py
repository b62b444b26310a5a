"""The soak test: six nodes run jobs while random faults happen. Each job is checked afterwards.

``python -m tests.soak --help``. With ``--plain`` plain Celery runs the same jobs with the same
faults.

    run.py      one soak, from the first job to the verdict
    app.py      the tasks, which write their begin and end to the ledger
    load.py     the jobs and the times at which they are sent
    begin.py    its seed, its folder and its console
    fleet.py    six workers, and the signals to them
    faults.py   the faults of workers and Redis, and the duration of each rescue
    ledger.py   a record of each run of a task
    verdict.py  the promises, and the jobs that broke them
    report.py   the tables
"""
