"""The launch script's request, as SageMaker would get it from the real SDK."""

import http.server
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from launch.sagemaker import metric_definitions
from tests.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-launch" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="the SDK's environment is absent: make test-launch creates it"
)

REFUSAL = (
    b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
)


class StandIn(http.server.BaseHTTPRequestHandler):
    """Keeps the requests to SageMaker, and refuses IAM, which the SDK does not need."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.headers.get("X-Amz-Target")
        if target:
            asked = json.loads(body)
            self.server.asked[target] = asked
            job = asked["TrainingJobName"]
            status = {
                "TrainingJobName": job,
                "TrainingJobStatus": "InProgress",
                "SecondaryStatus": "Starting",
            }
            arn = f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{job}"
            answer = json.dumps({"TrainingJobArn": arn, **status}).encode()
        else:
            answer = REFUSAL
        self.send_response(200 if target else 403)
        self.send_header("Content-Type", "application/x-amz-json-1.1" if target else "text/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def aws(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.asked = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = tmp_path / "config.yaml"
    settings.write_text(
        "{SchemaVersion: '1.0', SageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}}"
    )
    server.environment = os.environ | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(settings),
    }
    yield server
    server.shutdown()
    server.server_close()


def test_a_spot_job_on_eight_gpus(aws):
    options = (
        "--recipe imagenet104 --spot --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/phases "
        "--role arn:aws:iam::123456789012:role/training --data s3://bucket/imagenet "
        "--output s3://bucket/runs/ --instance ml.p3.16xlarge --hours 6"
    )
    ran = subprocess.run(
        [PYTHON, "-m", "docs.sagemaker.launch", *options.split()],
        cwd=ROOT,
        env=aws.environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert ran.returncode == 0, ran.stderr
    asked = aws.asked["SageMaker.CreateTrainingJob"]
    assert ran.stdout.strip() == asked["TrainingJobName"]
    assert asked["HyperParameters"] == {"recipe": "imagenet104"}
    assert asked["AlgorithmSpecification"]["MetricDefinitions"] == metric_definitions()
    (channel,) = asked["InputDataConfig"]
    assert channel["ChannelName"] == "training"
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/imagenet"
    assert asked["ResourceConfig"]["InstanceType"] == "ml.p3.16xlarge"
    assert asked["EnableManagedSpotTraining"] is True
    assert asked["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 6 * 3600,
        "MaxWaitTimeInSeconds": 12 * 3600,
    }
    assert asked["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
    assert asked["CheckpointConfig"]["S3Uri"].startswith("s3://bucket/runs/imagenet104-")
