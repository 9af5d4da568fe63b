"""Imported by a process that others are forked from: what each of them would import for MLflow."""

from importlib import import_module

from mtl_runner.tracking.session import load

load()
for _name in ("mlflow.store.tracking.sqlalchemy_store", "sqlalchemy.dialects.sqlite", "alembic.command", "filelock"):
    import_module(_name)
