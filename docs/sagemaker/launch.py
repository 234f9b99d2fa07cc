"""Starts a training job on Amazon SageMaker with its Python SDK (requirements.txt here).

    python -m docs.sagemaker.launch --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME \\
        --role arn:aws:iam::ACCOUNT:role/NAME --output s3://BUCKET/runs \\
        --data s3://BUCKET/imagenet --recipe imagenet104 --instance ml.p3.16xlarge

The Dockerfile beside this file makes the image, which holds the project and the training
toolkit. Run this from the project's folder, with AWS credentials and a region.
"""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from sagemaker.core.shapes import MetricDefinition
from sagemaker.core.training import configs
from sagemaker.train import ModelTrainer

from launch.sagemaker import metric_definitions


@click.command()
@click.option("--image", required=True, help="The image in ECR.")
@click.option("--role", required=True, help="ARN of the role that the job runs under.")
@click.option("--output", required=True, help="s3:// folder for the jobs' results.")
@click.option("--data", help="s3:// folder of the records, with its `160` and `320`.")
@click.option("--recipe", default="demo", show_default=True)
@click.option("--instance", default="ml.m5.xlarge", show_default=True)
@click.option("--workers", type=int, help="By default one for each GPU of the instance.")
@click.option("--spot", is_flag=True, help="Pay the spot price; an interrupted run resumes.")
@click.option("--checkpoints", help="s3:// folder of an earlier job's run, to resume it.")
@click.option("--volume", default=400, show_default=True, help="Disk, GB.")
@click.option("--hours", default=24, show_default=True, help="Maximum training time.")
@click.option("--wait", is_flag=True, help="Print the job's log until it ends.")
def launch(**options: Any) -> None:
    """Starts a training job and prints its name."""
    job = SimpleNamespace(**options)
    seconds = job.hours * 3600
    name = Path(job.recipe).stem.replace("_", "-")
    # By default a new folder, since a job resumes the run that it finds.
    now = time.strftime("%Y%m%d-%H%M%S")
    checkpoints = job.checkpoints or f"{job.output.rstrip('/')}/{name}-{now}/checkpoints"
    metrics = [MetricDefinition(name=d["Name"], regex=d["Regex"]) for d in metric_definitions()]
    trainer = ModelTrainer(
        training_image=job.image,
        role=job.role,
        base_job_name=name,
        hyperparameters={"recipe": job.recipe} | ({"workers": job.workers} if job.workers else {}),
        compute=configs.Compute(
            instance_type=job.instance,
            instance_count=1,
            volume_size_in_gb=job.volume,
            enable_managed_spot_training=job.spot,
        ),
        stopping_condition=configs.StoppingCondition(
            max_runtime_in_seconds=seconds,
            # It may take long until spot capacity is free.
            max_wait_time_in_seconds=2 * seconds if job.spot else None,
        ),
        output_data_config=configs.OutputDataConfig(s3_output_path=job.output),
        # An interrupted job finds its run here again; SageMaker keeps the copy up to date.
        checkpoint_config=configs.CheckpointConfig(s3_uri=checkpoints),
    ).with_metric_definitions(metrics)
    sources = [job.data] if job.data else []
    channels = [configs.InputData(channel_name="training", data_source=s) for s in sources]
    trainer.train(input_data_config=channels, wait=job.wait, logs=job.wait)
    click.echo(trainer._latest_training_job.training_job_name)


if __name__ == "__main__":
    launch()
