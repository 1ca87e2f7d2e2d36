"""Croissant: a release described as machine-learning tools read it, and where it came from, both in JSON-LD.

Croissant 1.1 (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html) names files, digests and columns; PROV
(https://www.w3.org/TR/prov-o/) what was made from what. Pure functions of public facts, without a time, as the
release itself.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from synth.schema import IMAGE, Column, Schema

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of the specification, word for word."""

_SHARDS = "data/part-*.parquet"


def croissant(
    name: str, schema: Schema, certificate: Mapping[str, Any], shards: Mapping[str, str]
) -> dict[str, Any]:
    """The release as a Croissant dataset.

    Args:
        name: name of the release.
        schema: the released columns.
        certificate: what is promised.
        shards: path in the release → SHA-256 (hex).
    """
    files = [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "encodingFormat": "application/x-parquet",
            "sha256": digest,
        }
        for path, digest in sorted(shards.items())
    ]
    whole = {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "encodingFormat": "application/x-parquet",
        "includes": _SHARDS,
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": f"A synthetic table of {certificate['rows']:,} rows. {certificate['statement']}",
        "version": "1.0.0",
        "isLiveDataset": False,
        "rai:dataCollection": "Every row was drawn from a model; none was collected.",
        "distribution": [*files, whole],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "description": "The synthetic rows.",
                "field": [_field(i, column) for i, column in enumerate(schema, start=1)],
            }
        ],
    }


def _field(number: int, column: Column) -> dict[str, Any]:
    # A name may hold anything, an identifier may not.
    return {
        "@type": "cr:Field",
        "@id": f"rows/column_{number}",
        "name": column.name or f"column_{number}",
        "description": f"{column.kind}, {column.type}",
        "dataType": _data_type(column.arrow_type),
        "source": {"fileSet": {"@id": "shards"}, "extract": {"column": column.name}},
    }


def _data_type(kind: pa.DataType) -> str:
    if kind == IMAGE:
        return "sc:ImageObject"
    if pa.types.is_dictionary(kind):
        return _data_type(kind.value_type)
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "sc:Float"
    if pa.types.is_date(kind):
        return "sc:Date"
    return "sc:DateTime" if pa.types.is_timestamp(kind) else "sc:Text"


def provenance(name: str, certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Where the release came from: what was made of what, by which software, as W3C PROV.

    Args:
        name: name of the release.
        certificate: what is promised and what the release was made from.
    """
    digests = {what: f"urn:sha256:{certificate[f'{what}_digest']}" for what in ("model", "recipe", "schema")}
    software = [
        {"@id": f"pkg:pypi/{package}@{version}", "@type": ["prov:SoftwareAgent", "prov:Agent"]}
        for package, version in sorted(certificate["versions"].items())
    ]
    agents = [{"@id": agent["@id"]} for agent in software]
    return {
        "@context": {
            "prov": "http://www.w3.org/ns/prov#",
            "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
            "label": "rdfs:label",
            "understudy": "urn:understudy:",
        },
        "@graph": [
            {
                "@id": ".",
                "@type": "prov:Entity",
                "label": f"{name}: {certificate['rows']:,} synthetic rows",
                "prov:wasGeneratedBy": {"@id": "understudy:sample"},
                "prov:wasDerivedFrom": [{"@id": digests["model"]}, {"@id": digests["schema"]}],
            },
            {
                "@id": digests["model"],
                "@type": "prov:Entity",
                "label": f"a {certificate['synthesizer']} model",
                "prov:wasGeneratedBy": {"@id": "understudy:fit"},
                "prov:wasDerivedFrom": [{"@id": "understudy:source"}, {"@id": digests["recipe"]}],
            },
            {
                "@id": "understudy:source",
                "@type": "prov:Entity",
                "label": "the private table, which is not published",
            },
            {"@id": digests["recipe"], "@type": ["prov:Entity", "prov:Plan"], "label": "the recipe"},
            {"@id": digests["schema"], "@type": "prov:Entity", "label": "schema.json"},
            {
                "@id": "understudy:fit",
                "@type": "prov:Activity",
                "label": "a model learned from answers about the private rows",
                "prov:used": [{"@id": "understudy:source"}, {"@id": digests["recipe"]}],
                "prov:wasAssociatedWith": agents,
            },
            {
                "@id": "understudy:sample",
                "@type": "prov:Activity",
                "label": f"rows were drawn from the model, seed {certificate['seed']}",
                "prov:used": {"@id": digests["model"]},
                "prov:wasInformedBy": {"@id": "understudy:fit"},
                "prov:wasAssociatedWith": agents,
            },
            *software,
        ],
    }
