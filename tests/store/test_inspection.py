"""An inspection comes back as it was written, and what is none is refused in one line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantbench.errors import InputError
from quantbench.store.inspection import FILE, columns, read, write
from tests.store.inspections import inspection


def test_what_was_written_is_read(tmp_path):
    made = inspection(blocks=2)
    path = write(tmp_path / "new", made)
    assert read(path.parent) == made
    assert [file.name for file in path.parent.iterdir()] == [FILE], "no temporary file is left"
    assert pq.read_schema(path).names == list(columns())


def test_an_older_one_is_replaced(tmp_path):
    write(tmp_path, inspection(blocks=2))
    write(tmp_path, inspection(blocks=1))
    assert read(tmp_path) == inspection(blocks=1)


def test_what_is_no_inspection_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no inspection in .*inspection\.parquet is missing"):
        read(tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match="no inspection of this version"):
        read(tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / FILE)
    with pytest.raises(InputError, match="no inspection of this version"):
        read(tmp_path)
