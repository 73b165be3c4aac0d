"""Starting the processes of a run, watching them, and ending all of them. Light: nothing here imports mindspore.

On the launcher's side, in the order in which a start uses them:
    node_place    which machine this is, and where all machines meet
    ports         whether the port of the meeting point is free
    environment   what the workers find in their environment
    supervisor    start, watch, report, stop
    processes     starting a command, and ending all that it has started
    eyes          what each rank says and does now
    watch         the rules by which a process counts as dead, stopped, hung or deadlocked
    blame         which of several failures was the first
    report        what a person is told
    records       what stays in the logs folder
In each worker:
    worker        the program that a worker runs
    board         where it says what it is doing
    failures      where it says what it died of
"""
