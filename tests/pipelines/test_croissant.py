import json
import shutil
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow.parquet as pq
import pytest
import rdflib

from pipelines.steps import Outcome
from pipelines.workspace import sha256
from synth.schema import Schema
from tests.pipelines.tables import HOSTILE

PROV = rdflib.Namespace("http://www.w3.org/ns/prov#")


def test_mlcroissant_reads_the_rows_that_the_files_hold(done: Outcome) -> None:
    found = mlcroissant.Dataset(jsonld=str(done.release / "croissant.json"))
    assert not found.metadata.ctx.issues.errors
    records: list[dict[str, Any]] = list(found.records("rows"))
    table = pq.read_table(done.release / "data")
    assert len(records) == len(table) == 1_000
    for number, name in enumerate(table.column_names, start=1):
        read = [r[f"rows/column_{number}"] for r in records]
        if name == "age":
            assert read == table[name].to_pylist()
        if name in HOSTILE[:2]:
            assert [v.decode() for v in read] == table[name].to_pylist()


def test_croissant_names_every_column_and_the_digest_of_every_shard(done: Outcome) -> None:
    said = json.loads((done.release / "croissant.json").read_text("utf-8"))
    schema = Schema.parse((done.release / "schema.json").read_text("utf-8"), source="schema.json")
    assert [f["name"] for f in said["recordSet"][0]["field"]] == list(schema.names)
    shards = [f for f in said["distribution"] if f["@type"] == "cr:FileObject"]
    assert {f["contentUrl"]: f["sha256"] for f in shards} == {
        f"data/{p.name}": sha256(p) for p in (done.release / "data").iterdir()
    }


def test_mlcroissant_notices_a_changed_shard(done: Outcome, tmp_path: Path) -> None:
    # The digests are of use only if a reader holds files against them.
    copy = Path(shutil.copytree(done.release, tmp_path / "copy"))
    said = json.loads((copy / "croissant.json").read_text("utf-8"))
    said["recordSet"][0]["field"] = [
        {**f, "source": {"fileObject": {"@id": "data/part-00000.parquet"}, "extract": f["source"]["extract"]}}
        for f in said["recordSet"][0]["field"][:1]
    ]
    (copy / "croissant.json").write_text(json.dumps(said))
    assert len(list(mlcroissant.Dataset(jsonld=str(copy / "croissant.json")).records("rows"))) == 1_000
    said["distribution"][0]["sha256"] = "0" * 64
    (copy / "croissant.json").write_text(json.dumps(said))
    with pytest.raises(Exception, match=r"Download\(data/part"):
        list(mlcroissant.Dataset(jsonld=str(copy / "croissant.json")).records("rows"))


def test_provenance_is_rdf_that_leads_from_the_release_to_the_source(done: Outcome) -> None:
    graph = rdflib.Graph().parse(
        data=(done.release / "provenance.json").read_text("utf-8"), format="json-ld", publicID="urn:release:"
    )
    certificate = json.loads((done.release / "certificate.json").read_text("utf-8"))
    source = rdflib.URIRef("urn:understudy:source")
    model = rdflib.URIRef(f"urn:sha256:{certificate['model_digest']}")
    derived = {(s, o) for s, o in graph.subject_objects(PROV.wasDerivedFrom)}
    assert (model, source) in derived
    assert any(o == model and s != source for s, o in derived)
    fit = graph.value(model, PROV.wasGeneratedBy)
    assert (fit, PROV.used, source) in graph
    assert (fit, rdflib.RDF.type, PROV.Activity) in graph
    agents = {str(a) for a in graph.objects(fit, PROV.wasAssociatedWith)}
    assert any(a.startswith("pkg:pypi/torch@") for a in agents)
    assert (rdflib.URIRef(sorted(agents)[0]), rdflib.RDF.type, PROV.SoftwareAgent) in graph
