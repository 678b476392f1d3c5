import json

from quantbench.bench import main


def test_a_small_store_is_measured_and_no_concurrent_write_is_lost(tmp_path):
    output = tmp_path / "store.json"
    arguments = ["--runs", "300", "--loose", "3", "--writers", "2", "--seconds", "0.5", "-o", str(output)]
    assert main(["store", *arguments]) == 0
    report = json.loads(output.read_text())
    assert report["runs"] == 303
    assert report["rows"] == 4 * 303
    assert set(report["bytes"]) == {"runs.parquet", "samples.parquet"}
    assert {"table", "load_all", "compact", "samples_of_a_run"} < set(report["seconds"])
    crowd = report["crowd"]
    assert crowd["written"] == crowd["readable"] == crowd["with_samples"] > 1
    assert crowd["rows_twice"] == 0
