"""Every op of the package is public."""

import importlib
import pkgutil

from spikec.ir import ops
from spikec.ir.op import Op


def test_every_op_is_public_in_the_package():
    for found in pkgutil.iter_modules(ops.__path__, f"{ops.__name__}."):
        module = importlib.import_module(found.name)
        defined = {name for name, each in vars(module).items() if isinstance(each, type) and issubclass(each, Op)}
        public = {name for name in defined if not name.startswith("_") and vars(module)[name].__module__ == found.name}
        assert public == set(module.__all__)
        assert all(getattr(ops, name) is getattr(module, name) for name in public)
