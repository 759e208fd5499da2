"""Checks the files of an SBOM and of a statement against their specifications, which the libraries bring along."""

import json
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import Parse, ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from packageurl import PackageURL

sbom, statement = (Path(file).read_text() for file in sys.argv[1:])

error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom)
assert error is None, error
for component in json.loads(sbom)["components"]:
    if purl := component.get("purl"):
        assert PackageURL.from_string(purl).to_string() == purl, purl

# An unknown member is an error.
Statement.copy_from_pb(Parse(statement, StatementMessage())).validate()
predicate = ParseDict(json.loads(statement)["predicate"], Provenance())
definition, details = predicate.build_definition, predicate.run_details
assert definition.build_type and definition.external_parameters and details.builder.id
for used in definition.resolved_dependencies:
    ResourceDescriptor.copy_from_pb(used).validate()
