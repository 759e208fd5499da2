"""Drives a running installation with the unchanged public SDK, and prints the results as JSON."""

import json
import sys

from runagents import Client
from runagents.client import APIError

client = Client()
seen = {}


def fails(call):
    try:
        call()
    except APIError as e:
        assert isinstance(e.detail, dict) and e.detail["code"] and e.detail["request_id"], e.detail
        return [e.status, e.detail["error"]]
    raise AssertionError("it did not fail")


# The starter kit, tools and models.
seen["starter_kit"] = client.seed_starter_kit()
tool = client.tools.create("crm", "https://crm.example", description="Customers", auth_type="APIKey")
seen["created"] = tool["name"]
seen["tools"] = [t.name for t in client.tools.list()]
crm = client.tools.get("crm")
seen["crm"] = [crm.name, crm.description, crm.base_url, crm.auth_type, crm.topology, crm.access_mode, crm.capabilities]
seen["echo"] = client.tools.get("echo-tool").base_url
seen["models"] = [[m.name, m.provider, m.models, m.status, m.endpoint] for m in client.models.list()]
seen["no_tool"] = fails(lambda: client.tools.get("nobody"))

# Identity providers: apply is an upsert.
document = {
    "name": "sso",
    "spec": {
        "host": "agents.example.com",
        "identityProvider": {"issuer": "https://id.example.com", "jwksUri": "https://id.example.com/keys"},
        "userIDClaim": "email",
    },
}
applied = client.identity_providers.apply(document)
seen["applied"] = [applied.name, applied.namespace, applied.spec.host, applied.spec.identity_provider.issuer]
document["spec"]["identityProvider"]["audiences"] = ["agents"]
document["spec"]["allowedDomains"] = ["example.com"]
client.identity_providers.apply(document)
client.identity_providers.apply(document["spec"], name="other")
got = client.identity_providers.get("sso")
seen["sso"] = [got.spec.user_id_claim, got.spec.identity_provider.jwks_uri, got.spec.identity_provider.audiences, got.spec.allowed_domains]
seen["identity_providers"] = [p.name for p in client.identity_providers.list()]
seen["identity_provider_deleted"] = client.identity_providers.delete("other")

# Agents.
source = {
    "agent.py": "from runagents import Agent\n"
    "agent_of_mine = Agent()\n"
    "def handler(message):\n"
    "    a = agent_of_mine\n"
    "    return {'response': [a.system_prompt, a.model, a.available_tools(), a.call_tool('echo-tool', '/echo', {'message': message})]}\n"
}
deployed = client.agents.deploy(
    "reader",
    source_files=source,
    requirements="runagents==1.4.2",
    system_prompt="You are terse.",
    required_tools=["echo-tool"],
    llm_configs=[{"provider": "openai", "model": "gpt-4o-mini", "role": "default"}],
)
seen["deployed"] = [deployed.agent_name, deployed.namespace, deployed.tools_created, bool(deployed.build_id and deployed.image_uri)]
seen["answer"] = client.post("/agents/reader/invoke", {"message": "hello"})["response"]
agent = client.agents.get("reader")
seen["agent"] = [agent.name, agent.namespace, agent.status, agent.image == deployed.image_uri, agent.system_prompt, bool(agent.created_at)]
seen["agents"] = [a.name for a in client.agents.list()]
config = client.agents.get_config("reader")
seen["config"] = [config.agent_name, config.namespace, config.system_prompt, config.required_tools, [[m.role, m.provider, m.model] for m in config.llm_configs]]
changed = client.agents.update_config(
    "reader",
    system_prompt="You are kind.",
    llm_configs=[{"role": "default", "model_provider": "playground-llm", "model": "gpt-4o-mini"}],
)
seen["changed"] = [changed.system_prompt, changed.required_tools, [m.model_provider or m.provider for m in changed.llm_configs]]
seen["changed_answer"] = client.post("/agents/reader/invoke", {"message": "hello"})["response"][:2]

# An agent behind an identity provider keeps it, requires a user's token, and prevents the provider's deletion.
guarded = client.agents.deploy("guarded", source_files={"agent.py": "def handler(message):\n    return message\n"}, identity_provider="sso")
seen["guarded"] = guarded.agent_name
seen["refused"] = fails(lambda: client.post("/agents/guarded/invoke", {"message": "x"}))[0]
seen["in_use"] = fails(lambda: client.identity_providers.delete("sso"))
unknown = {"source_files": source, "identity_provider": "nobody"}
seen["unknown_provider"] = fails(lambda: client.agents.deploy("guarded", **unknown))[0]

# Methods that Hoistway does not support fail with a clear error.
unsupported = {
    "actions": lambda: client.actions.validate({}),
    "analyze": lambda: client.analyze(source),
    "approval_connectors": lambda: client.approval_connectors.list(),
    "approvals": lambda: client.approvals.list(),
    "catalog": lambda: client.catalog.list(),
    "context": lambda: client.export_context(),
    "model_spend": lambda: client.model_spend.get(),
    "policies": lambda: client.policies.apply({"name": "p", "policies": []}),
    "runs": lambda: client.runs.get("r"),
    "deploy_policies": lambda: client.agents.deploy("reader", image="x", policies=["p"]),
    "config_policies": lambda: client.agents.update_config("reader", policies=["p"]),
    "config_budget": lambda: client.agents.update_config("reader", llm_configs=[{"provider": "openai", "model": "m", "monthly_budget_usd": 5}]),
    "deploy_draft": lambda: client.agents.deploy("reader", draft_id="d"),
}
seen["unsupported"] = {name: fails(call) for name, call in unsupported.items()}

json.dump(seen, sys.stdout)
