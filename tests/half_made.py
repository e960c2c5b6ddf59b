"""Make MLflow databases and kill that in the middle: `python half_made.py FOLDER STATEMENTS...` makes FOLDER/N.db."""

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    import sqlalchemy
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder, *statements = sys.argv[1:]
    for number in map(int, statements):
        if (pid := os.fork()) == 0:
            left = iter(range(number - 1))

            def before(*_, left=left):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", before)
            SqlAlchemyStore(f"sqlite:///{Path(folder, f'{number}.db')}", folder)
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
