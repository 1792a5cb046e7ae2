"""The manifests and scripts of the documentation, as far as they can be tried without a cluster."""

import json
import pathlib
import re
import subprocess

import pytest
import yaml

DISTRIBUTED = (pathlib.Path(__file__).parents[1] / "docs" / "distributed.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", DISTRIBUTED, re.DOTALL | re.MULTILINE)


def tf_config(script, tmp_path, **environment):
    """The TF_CONFIG that a shell script gives to `python`."""
    for name, body in (
        ("python", 'echo "$TF_CONFIG"'),
        ("srun", 'shift; exec "$@"'),
        ("scontrol", "printf 'node%s\\n' 01 02"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", script], env={**environment, **path}, capture_output=True, text=True
    )
    assert not done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("script", blocks("sh"))
def test_shell(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kubernetes(tmp_path):
    service, job = yaml.safe_load_all(blocks("yaml")[0])
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completions"] == spec["parallelism"] == int(container["env"][0]["value"])
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
    assert tf_config(container["args"][0], tmp_path, NUM_WORKERS="2", JOB_COMPLETION_INDEX="1") == {
        "cluster": {"worker": [f"{name}-{i}.{pod['subdomain']}:2222" for i in range(2)]},
        "task": {"type": "worker", "index": 1},
    }


def test_slurm(tmp_path):
    (script,) = [block for block in blocks("sh") if "#SBATCH" in block]
    environment = {"SLURM_JOB_NODELIST": "node[01-02]", "SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}
    assert tf_config(script, tmp_path, **environment) == {
        "cluster": {"worker": ["node01:2222", "node02:2222"]},
        "task": {"type": "worker", "index": 1},
    }
