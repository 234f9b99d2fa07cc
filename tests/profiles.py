"""Reads the files of TensorFlow's profiler, with its own description of them."""

from tensorflow.core.profiler.protobuf import xplane_pb2


def traced_steps(folder):
    """The numbers of the steps in each trace of a folder, in the order of the traces."""
    found = []
    for path in sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime_ns):
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
        steps = []
        for plane in space.planes:
            names = {key: meta.name for key, meta in plane.stat_metadata.items()}
            for line in plane.lines:
                for event in line.events:
                    if plane.event_metadata[event.metadata_id].name == "train":
                        stats = {names[stat.metadata_id]: stat for stat in event.stats}
                        steps.append(stats["step_num"].int64_value)
                        assert event.duration_ps > 0
        found.append(sorted(steps))
    return found
