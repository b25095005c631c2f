"""`python -m engine.observe.exports WORKSPACE`: the files for a Prometheus server and Grafana, as one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from engine.observe.exports.dashboard import dashboard
from engine.observe.exports.rules import INTERVAL, JOB, rule_file
from state.config import CONFIG_NAME, Config, load_config
from state.words import AirbossError, ExitCode


def files(config: Config, name: str) -> dict[str, str]:
    """File name → text: the rules, what to scrape, the dashboard."""
    gateway = config.gateway
    addresses = [
        gateway.metrics_address(index) for index in range(gateway.workers if gateway.engine == "airboss" else 1)
    ]
    targets = [f"{one[0]}:{one[1]}" for one in addresses if one is not None]
    scrape = {
        "scrape_configs": [
            {"job_name": JOB, "scrape_interval": INTERVAL, "static_configs": [{"targets": targets or ["HOST:9464"]}]}
        ],
        "rule_files": ["airboss.rules.yml"],
    }
    note = (
        "" if targets else f"# [gateway] metrics_listen in {CONFIG_NAME} opens the workers' pages; none is open yet.\n"
    )
    return {
        "airboss.rules.yml": _yaml(rule_file(config)),
        "airboss.scrape.yml": note + _yaml(scrape),
        "airboss.dashboard.json": json.dumps(dashboard(f"Airboss: {name}"), indent=2) + "\n",
    }


def _yaml(body: dict[str, Any]) -> str:
    return yaml.safe_dump(body, sort_keys=False, width=1000, allow_unicode=True)


def main(argv: list[str]) -> int:
    """Print the files. Returns the documented exit code."""
    root = Path(argv[0])
    try:
        config = load_config(root)
    except AirbossError as error:
        sys.stderr.write(json.dumps({"error": error.as_dict()}) + "\n")
        return int(error.exit)
    sys.stdout.write(json.dumps(files(config, config.workspace.get("name", root.name))) + "\n")
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
