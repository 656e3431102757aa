"""The commands of `detco`: a row of COMMANDS each.

To add one: a row with its name, the function that it calls ("module:function" below benchmarks),
a text, an example and its options. The function takes the parsed arguments and returns the exit
status: 0, 1 for failed or left-out work, 2 for wrong input, which it may also raise as InputError.
Its module is imported only when it is called: this file and what it imports stay light, so that
`detco --help` is quick. The first of two words is a group: its text is a row of GROUPS.
"""

from pathlib import Path

from detco.transfer.data import LAYOUTS

from ..run import DEFAULT, EXECUTORS
from . import parser as options
from .parser import (
    AMP,
    AS_JSON,
    BASELINE,
    COPIES,
    DETECTRON2,
    DEVICE,
    ENGINE_NAMES,
    EXECUTOR_TEXT,
    FORMAT,
    JSON,
    KEEP_MODEL,
    LAYOUT_NAMES,
    LAYOUT_TITLES,
    MERGE_CLASSES,
    PAIRED,
    PROTOCOLS,
    READ_AS,
    REPEATS,
    REPOSITORY,
    REVISION,
    RUN_JSON,
    SEED,
    STRICT,
    STRICT_DATA,
    TRACK,
    TRACKERS,
    VERIFY,
    Command,
    changes,
    folder,
    names,
    not_negative,
    number,
    option,
    share,
    whole,
)

COMMANDS = (
    Command(
        "doctor",
        "cli.doctor:main",
        "say what is installed, what is missing and what that means",
        "detco doctor --json",
        (JSON,),
    ),
    Command(
        "completion",
        "cli.tools:completion",
        "a script for your shell that completes commands, options and names",
        "detco completion bash",
        (
            option(
                "shell",
                'bash or zsh; a line for ~/.bashrc: eval "$(detco completion bash)"',
                metavar="SHELL",
                choices=("bash", "zsh"),
            ),
        ),
    ),
    Command(
        "pretrain",
        "cli.run:pretrain",
        "make a backbone file from a folder of pictures; goes on by itself if interrupted",
        "detco pretrain detco-small --images photos --out runs/detco --set epochs=20",
        (
            option(
                "recipe",
                "e.g. detco-small, moco-v2-small, supervised-small, detco-200ep",
                metavar="RECIPE",
            ),
            folder(
                "--images",
                "folder tree of pictures (supervised: one folder a class), or a text file of paths",
                required=True,
            ),
            folder("--out", "where backbone.safetensors, curves and log go", required=True),
            folder(
                "--probe",
                "labelled pictures, a folder a class: k-nearest-neighbour accuracy after each"
                " epoch",
            ),
            SEED,
            DEVICE,
            changes("epochs=20"),
            TRACK,
        ),
    ),
    Command(
        "weights import",
        "cli.weights:import_",
        "a checkpoint of another project, or a public one by its name, as a backbone file",
        "detco weights import moco_v2_800ep_pretrain.pth.tar --out moco-v2-800ep.safetensors",
        (
            option(
                "source",
                "a .pth, .pt, .ckpt, .torch, .pkl, .safetensors or .npz file, a folder of a hub, an"
                " index of shards, or a name of `detco weights list`",
                metavar="SRC",
            ),
            option("--out", "the new backbone file", metavar="FILE", type=Path, required=True),
            *READ_AS,
            option(
                "--method",
                "what to call it; default: what the file or its layout says",
                metavar="TEXT",
            ),
            COPIES,
            option(
                "--download", "fetch a public checkpoint that is not there", action="store_true"
            ),
            JSON,
        ),
    ),
    Command(
        "weights show",
        "cli.weights:show_",
        "what a backbone file or a checkpoint holds, or how two differ",
        "detco weights show runs/detco/backbone.safetensors --compare"
        " moco_v2_800ep_pretrain.pth.tar",
        (
            option(
                "file",
                "a backbone file, a checkpoint of another project, or a trained detector",
                metavar="FILE",
                type=Path,
            ),
            option(
                "--compare",
                "which tensors are equal, renamed or different, and how far by stage",
                metavar="FILE",
                type=Path,
            ),
            *READ_AS,
            JSON,
        ),
    ),
    Command(
        "weights probe",
        "cli.weights:probe",
        "in seconds: what a linear classifier tells from each level's features, beside random"
        " weights",
        "detco weights probe detco.safetensors moco.safetensors --data my-voc",
        (
            option("files", "backbone files or checkpoints", metavar="FILE", nargs="+", type=Path),
            folder("--data", "a labelled data set", required=True),
            option("--split", "default: the usual one to train on", metavar="SPLIT"),
            *READ_AS,
            JSON,
        ),
    ),
    Command(
        "weights export",
        "cli.weights:export",
        "a backbone as a file for Detectron2 or torchvision, or a trained detector as a folder for"
        " Detectron2",
        "detco weights export backbone.safetensors --to detectron2 backbone.pkl\n"
        "         detco weights export runs/fpn/detector.safetensors --to detectron2 my-detector",
        (
            option(
                "file",
                "a backbone file, a checkpoint of another project, or a trained detector (its file"
                " or job folder)",
                metavar="FILE",
                type=Path,
            ),
            option(
                "--to",
                "detectron2 (.pkl) or torchvision (.pth) of a ResNet, timm (.pth) of others",
                choices=("detectron2", "torchvision", "timm"),
                metavar="NAME",
                required=True,
            ),
            option("out", "the new file; of a detector: the new folder", metavar="OUT", type=Path),
            *READ_AS,
            JSON,
        ),
    ),
    Command(
        "weights push",
        "cli.weights:push",
        "a backbone file, with a model card made from its metadata, into a repository",
        "detco weights push backbone.safetensors ./shared/moco\n"
        "         detco weights push backbone.safetensors me/moco --licence mit --public",
        (
            option("file", "a backbone file", metavar="FILE", type=Path),
            REPOSITORY,
            option(
                "--licence",
                "for the card, e.g. apache-2.0; default: that of the public checkpoint the file"
                " was made from, if it is one",
                metavar="ID",
            ),
            option("--trained-on", "for the card: the data, e.g. ImageNet-1k", metavar="TEXT"),
            option(
                "--public",
                "a model that is new on the hub can be seen by all; default: by its owner",
                action="store_true",
            ),
            REVISION,
            JSON,
        ),
    ),
    Command(
        "weights pull",
        "cli.weights:pull",
        "a backbone file out of a repository, its format and hash verified",
        "detco weights pull me/moco moco.safetensors",
        (
            REPOSITORY,
            option(
                "out",
                "the new file; default: the repository's name",
                metavar="OUT",
                type=Path,
                nargs="?",
            ),
            REVISION,
            JSON,
        ),
    ),
    Command(
        "weights list",
        "cli.weights:list_",
        "public checkpoints: how they were made, where they are, whether a copy is here",
        "detco weights list --dir checkpoints\n         detco weights list moco-v2-800ep",
        (
            option("name", "only this one, with its address", metavar="NAME", nargs="?"),
            COPIES,
            option(
                "--layouts", "the layouts that `detco weights import` reads", action="store_true"
            ),
            JSON,
        ),
    ),
    Command(
        "protocols",
        "cli.tools:protocols",
        "list the transfer protocols",
        "detco protocols show small-retinanet",
        (JSON,),
    ),
    Command(
        "protocols show",
        "cli.tools:protocol",
        "every setting of one protocol",
        "detco protocols show coco-retinanet-90k --detectron2",
        (
            option("name", "a protocol", metavar="PROTOCOL"),
            option(
                "--detectron2", "as the Detectron2 config that is run (YAML)", action="store_true"
            ),
            option(
                "--weights",
                "with --detectron2: the backbone file whose preprocessing it takes",
                metavar="FILE",
                type=Path,
            ),
            JSON,
        ),
    ),
    Command(
        "recipes",
        "cli.tools:recipes",
        "list the recipes of pretraining",
        "detco recipes show detco-small",
        (JSON,),
    ),
    Command(
        "recipes show",
        "cli.tools:recipe",
        "every setting of one recipe, and which of them are assumed",
        "detco recipes show detco-200ep",
        (option("name", "a recipe", metavar="RECIPE"), JSON),
    ),
    Command(
        "data scenes",
        "cli.tools:scenes",
        "draw labelled scenes in VOC, COCO and Cityscapes layout",
        "detco data scenes scenes --images 1000 --seed 0",
        (
            option("out", "the new folder", metavar="OUT", type=Path),
            option(
                "--images",
                "labelled pictures; default 1000",
                metavar="N",
                type=whole(4, 10**7),
                default=1000,
            ),
            option(
                "--size",
                "their shorter side; default 128",
                metavar="PIXELS",
                type=whole(64, 4096),
                default=128,
            ),
            SEED,
        ),
    ),
    Command(
        "data check",
        "cli.tools:check",
        "sizes, fingerprint and everything wrong with a data set",
        "detco data check VOC2007\n"
        "         detco data check coco MY_DATA --protocol small-retinanet",
        (
            option(
                "layout",
                f"{LAYOUT_NAMES}; default: by its folders",
                metavar="LAYOUT",
                choices=LAYOUTS,
                nargs="?",
            ),
            folder("root", "the data set"),
            option(
                "--split",
                "only this one (may be repeated); default: all",
                metavar="NAME",
                action="append",
            ),
            option(
                "--keypoints",
                "of COCO's two files of a split, the one with keypoints",
                action="store_true",
            ),
            option(
                "--protocol",
                "also what this protocol would refuse, its scorer leaves out, and the best AP that"
                " it allows on the test images",
                metavar="NAME",
            ),
            STRICT_DATA,
            MERGE_CLASSES,
            JSON,
        ),
    ),
    Command(
        "data split",
        "cli.tools:split",
        "divide a data set that has no splits, a share of each class: VOC without lists, one COCO"
        " file, or a folder for each class",
        "detco data split MY_DATA --val 0.2 --group '(.*)_frame'",
        (
            folder("root", "the data set"),
            option("--val", "share to test on; default 0.2", metavar="S", type=float, default=0.2),
            option(
                "--test",
                "share of a third part, `test`; default: none",
                metavar="S",
                type=float,
                default=0.0,
            ),
            option(
                "--group",
                "a regular expression: images in whose names it (or its first group) matches the"
                " same text stay together, e.g. frames of a video",
                metavar="PATTERN",
            ),
            SEED,
        ),
    ),
    Command(
        "data convert",
        "cli.tools:convert",
        "a data set in the format of YOLO, labelme or Animal Pose as COCO files",
        "detco data convert yolo MY_YOLO my-coco",
        (
            option(
                "format",
                "yolo, labelme or animal-pose",
                metavar="FORMAT",
                choices=("yolo", "labelme", "animal-pose"),
            ),
            folder(
                "root",
                "the data set. yolo: a data.yaml, CVAT's obj.data, or classes.txt with images/ and"
                " labels/; labelme: a JSON file for each image; the images of both stay where they"
                " are; animal-pose: keypoints.json and images/",
            ),
            option("out", "the new folder", metavar="OUT", type=Path),
            option(
                "--size",
                "short side in pixels to which animal-pose reduces images; default: as they are",
                metavar="N",
                type=whole(1),
            ),
        ),
    ),
    Command(
        "data subset",
        "cli.tools:subset",
        "write a share of a COCO annotation file; smaller shares lie within larger ones",
        "detco data subset coco/annotations/instances_train2017.json --percent 1",
        (
            option("file", "a COCO annotation file", metavar="COCO.json", type=Path),
            option("--percent", "of its pictures", metavar="P", type=float, required=True),
            option(
                "--out",
                "default: NAME_Ppct.json beside the file, e.g. for split train2017_1pct",
                metavar="FILE",
                type=Path,
            ),
            SEED,
        ),
    ),
    Command(
        "speed views",
        "cli.tools:speed_views",
        "pictures a second: the usual torchvision pipeline for the four views, and ours",
        "detco speed views --images photos",
        (
            folder("--images", "JPEG pictures; default: drawn ones of the size of photographs"),
            option(
                "--count",
                "so many of them; default 32",
                metavar="N",
                type=whole(1, 10**5),
                default=32,
            ),
            REPEATS,
            DEVICE,
        ),
    ),
    Command(
        "speed step",
        "cli.tools:speed_step",
        "time and peak memory of a training step: DetCo written straight from the paper, and ours",
        "detco speed step --recipe detco-200ep --device cuda",
        (
            option("--recipe", "default: detco-200ep on a GPU, else detco-small", metavar="RECIPE"),
            option("--batch", "default: the recipe's", metavar="N", type=whole(1, 10**5)),
            REPEATS,
            DEVICE,
        ),
    ),
    Command(
        "speed runner",
        "cli.tools:speed_runner",
        "what running a job costs beyond the job, with a process for each and with workers reused",
        "detco speed runner --jobs 1000",
        (
            option(
                "--jobs",
                "that only wait; default 1000",
                metavar="N",
                type=whole(1, 10**6),
                default=1000,
            ),
            option(
                "--seconds",
                "that each waits; default 0.1",
                metavar="S",
                type=number(0, 3600),
                default=0.1,
            ),
        ),
    ),
    Command(
        "transfer",
        "cli.run:transfer",
        "fine-tune and test one detector from one backbone file",
        "detco transfer small-retinanet --weights runs/detco/backbone.safetensors --data my-voc"
        " --out runs",
        (
            option("protocol", "`detco protocols` lists them", metavar="PROTOCOL"),
            option(
                "--weights",
                "a backbone file, a checkpoint of another project, a name of `detco weights list`,"
                " or `random`",
                metavar="FILE",
                required=True,
            ),
            *READ_AS,
            folder(
                "--data",
                f"a data set in {LAYOUT_TITLES} layout; default: the protocol's own, in"
                " $DETECTRON2_DATASETS or ./datasets",
            ),
            folder("--out", "collects runs; `detco table DIR` compares them", required=True),
            option(
                "--layout",
                f"{LAYOUT_NAMES}; default: by its folders",
                choices=LAYOUTS,
                metavar="NAME",
            ),
            option("--train", "default: the usual one, e.g. trainval in VOC", metavar="SPLIT"),
            option("--test", "default: the usual one, e.g. test in VOC", metavar="SPLIT"),
            option("--name", "row of the table; default: the name of the weights"),
            option("--engine", ENGINE_NAMES, default="auto"),
            SEED,
            DEVICE,
            changes("schedule.iterations=300"),
            VERIFY,
            STRICT_DATA,
            MERGE_CLASSES,
            *DETECTRON2,
            RUN_JSON,
            KEEP_MODEL,
            TRACK,
        ),
    ),
    Command(
        "predict",
        "cli.predict:predict",
        "what a trained detector finds on pictures, as COCO JSON and drawn",
        "detco predict runs/fpn photos --out found --score 0.7",
        (
            option(
                "model",
                "detector.safetensors, or the folder of a job run with --keep-model",
                metavar="MODEL",
                type=Path,
            ),
            option(
                "images",
                "images, or folders of them (with the folders below)",
                metavar="IMAGE",
                nargs="+",
                type=Path,
            ),
            folder("--out", "where predictions.json and drawn/ go", required=True),
            option(
                "--score",
                "the lowest score of an object; default 0.5",
                metavar="S",
                type=share,
                default=0.5,
            ),
            option("--no-draw", "only predictions.json", action="store_true"),
            DEVICE,
        ),
    ),
    Command(
        "init",
        "cli.tools:init",
        "write a suite file for your own images, with comments",
        "detco init own.yaml --images photos --data my-voc",
        (
            option(
                "file",
                "default: own_images.yaml",
                metavar="FILE",
                nargs="?",
                type=Path,
                default=Path("own_images.yaml"),
            ),
            folder("--images", "images without labels: what recipes pretrain on"),
            folder("--data", "images with boxes, in VOC, COCO or Cityscapes layout"),
        ),
    ),
    Command(
        "run",
        "cli.run:suite",
        "run a whole comparison and print its table; goes on where it was interrupted",
        "detco run demo\n         detco run own.yaml --seeds 3\n         detco run"
        " paper-voc --data datasets --weights detco=detco.safetensors --start random,detco"
        " --dry-run\n         detco run paper-all --executor slurm --slurm partition=gpu --slurm"
        " gpus=8 --slurm pretrain.nodes=2",
        (
            option(
                "suite",
                "demo, smoke, replication (-ablations, -frozen, -full), paper-voc, paper-coco-12k,"
                " paper-coco-90k, paper-coco-180k, paper-semi, paper-cityscapes, paper-keypoints,"
                " paper-densepose, paper-classification, paper-all, or a YAML file as `detco init`"
                " writes",
                metavar="SUITE",
            ),
            folder("--out", "default: the suite's name"),
            folder(
                "--data",
                "a labelled data set; for the paper's suites the folder that holds VOC2007,"
                " VOC2012, coco, cityscapes (default: $DETECTRON2_DATASETS, then ./datasets)",
            ),
            folder(
                "--images",
                "what recipes pretrain on; for supervised ones with a folder for each class"
                " (ImageNet: train)",
            ),
            option(
                "--weights",
                "a backbone file for that starting point, or for a further one (may be repeated)",
                metavar="NAME=FILE",
                action="append",
                default=[],
            ),
            option("--start", "only these starting points", metavar="A,B", type=names),
            PROTOCOLS,
            changes("pretrain.epochs=20", " of every recipe or protocol of the suite that has it"),
            option("--engine", f"{ENGINE_NAMES}; default: the suite's"),
            option(
                "--executor",
                f"{EXECUTOR_TEXT}; default {DEFAULT}",
                choices=EXECUTORS,
                default=DEFAULT,
                metavar="NAME",
            ),
            option(
                "--seeds", "fine-tunings of each cell; default: the suite's", metavar="N", type=int
            ),
            *(own for row in EXECUTORS.values() for own in row.options),
            AMP,
            option(
                "--eval-period",
                "evaluate every N iterations too; detectron2 only; default: the suite's",
                metavar="N",
                type=not_negative,
            ),
            option("--dry-run", "print the plan and its cost, and stop", action="store_true"),
            option(
                "--gpu-hours",
                "with --dry-run: estimated hours on v100, a100 or h100",
                choices=("v100", "a100", "h100"),
                metavar="NAME",
            ),
            RUN_JSON,
            option("--yes", "also a plan of more than 10,000 jobs", action="store_true"),
            VERIFY,
            STRICT_DATA,
            MERGE_CLASSES,
            KEEP_MODEL,
            DEVICE,
            TRACK,
        ),
    ),
    Command(
        "status",
        "cli.status:show",
        "where every job below a folder stands",
        "detco status demo",
        (folder("dir", "a folder of runs"), JSON),
    ),
    Command(
        "logs",
        "cli.housekeeping:logs",
        "the log of one job",
        "detco logs demo 'retinanet from detco-small'\n         detco logs demo 3f91c2 --follow",
        (
            folder("dir", "a folder of runs"),
            option(
                "job", "a part of its title, the beginning of its id, or its folder", metavar="JOB"
            ),
            option("--lines", "only the last ones", metavar="N", type=not_negative, default=0),
            option("--follow", "go on until the job is over", action="store_true"),
        ),
    ),
    Command(
        "clean",
        "cli.housekeeping:clean",
        "delete what finished jobs no longer need; shows it first",
        "detco clean demo\n         detco clean demo --yes",
        (
            folder("dir", "a folder of runs"),
            option("--models", "trained detectors too", action="store_true"),
            option("--yes", "delete", action="store_true"),
        ),
    ),
    Command(
        "table",
        "cli.outcomes:table",
        "the AP table of all results below a folder, or a table of the DetCo paper",
        "detco table demo --baseline supervised --format latex\n         detco table runs --against"
        " detco-arxiv-v1\n         detco table --paper 4",
        (
            folder("dir", "a folder of runs", nargs="?"),
            FORMAT,
            AS_JSON,
            BASELINE,
            PAIRED,
            PROTOCOLS,
            option(
                "--metrics",
                "e.g. box_ap,box_aps; default: AP, AP50, AP75 of boxes, AP of masks and keypoints",
                metavar="A,B",
                type=names,
            ),
            option(
                "--columns",
                "only these, in this order: PROTOCOL, METRIC or PROTOCOL:METRIC each, e.g."
                " small-retinanet:box_ap,mask_ap",
                metavar="A,B",
                type=names,
            ),
            option("--transpose", "protocols and metrics as rows: narrower", action="store_true"),
            option("--caption", "above the table", metavar="TEXT"),
            option(
                "--label",
                "of the table in LaTeX, for \\ref; default tab:transfer",
                metavar="KEY",
            ),
            option(
                "--against",
                "measured beside published numbers: detco-arxiv-v1, moco-detection-readme,"
                " densecl-readme",
                metavar="SOURCE",
            ),
            option(
                "--paper",
                "print table 3 to 13 of the DetCo paper, as published",
                metavar="N",
                type=int,
            ),
            STRICT,
        ),
    ),
    Command(
        "compare",
        "cli.outcomes:compare",
        "two or more starting points: wins, ties and losses, by protocol, size and class of object",
        "detco compare detco-small moco-v2-small random demo",
        (
            option(
                "names", "starting points; differences are to the last", metavar="NAME", nargs="+"
            ),
            folder("dir", "a folder of runs"),
            FORMAT,
            AS_JSON,
            PAIRED,
            STRICT,
        ),
    ),
    Command(
        "plan-seeds",
        "cli.outcomes:plan_seeds",
        "how many seeds show a difference, from the spread between seeds",
        "detco plan-seeds runs --difference 1",
        (
            option(
                "dir", "a folder of runs with several seeds", metavar="DIR", type=Path, nargs="?"
            ),
            option(
                "--difference",
                "in percent of AP, e.g. 0.5",
                metavar="D",
                type=number(0.001, 100),
                required=True,
            ),
            option(
                "--spread",
                "standard deviation between seeds, instead of a folder",
                metavar="S",
                type=number(0.001, 100),
            ),
        ),
    ),
    Command(
        "verify",
        "report.verify:verify",
        "score finished runs anew from their predictions; exit status 1 where a record differs",
        "detco verify demo",
        (folder("dir", "a folder of runs"),),
    ),
    Command(
        "track",
        "report.track:main",
        "send curves, settings and results of finished runs to Weights & Biases or MLflow",
        "detco track demo --to mlflow",
        (
            folder("dir", "a folder of runs"),
            option("--to", "wandb or mlflow", choices=TRACKERS, metavar="NAME", required=True),
        ),
    ),
    Command(
        "report",
        "cli.outcomes:report",
        "one HTML page with tables, charts, curves, example pictures and settings",
        "detco report demo\n         detco report demo --figures charts --figure-format pdf",
        (
            folder("dir", "a folder of runs"),
            option("--out", "the page; default DIR/report.html", metavar="FILE", type=Path),
            option(
                "--anonymous",
                "without names of machines and users, paths and file names of pictures",
                action="store_true",
            ),
            option(
                "--figures", "also write its charts here, a file each", metavar="DIR", type=Path
            ),
            option(
                "--figure-format",
                "svg (default) or pdf (pip install cairosvg)",
                metavar="NAME",
                choices=("svg", "pdf"),
            ),
            BASELINE,
            STRICT,
        ),
    ),
    Command(
        "attention",
        "report.examples:attention",
        "attention maps of backbones over pictures, as in the paper's figure",
        "detco attention --weights a.safetensors b.safetensors --images photos --out maps.png",
        (
            option(
                "--weights",
                "as in `detco transfer`; several",
                metavar="FILE",
                nargs="+",
                required=True,
            ),
            *READ_AS,
            option(
                "--images",
                "pictures, or folders of them",
                metavar="PATH",
                nargs="+",
                type=Path,
                required=True,
            ),
            option("--out", "the figure, e.g. maps.png", metavar="FILE", type=Path, required=True),
            option(
                "--level",
                "res2, res3, res4 or res5; default res5",
                metavar="NAME",
                default="res5",
                choices=("res2", "res3", "res4", "res5"),
            ),
            option(
                "--size",
                "shorter side that pictures are resized to; default 224",
                metavar="PIXELS",
                type=whole(1, 4096),
                default=224,
            ),
            option(
                "--most",
                "pictures taken of a folder; default 6",
                metavar="N",
                type=int,
                default=6,
            ),
        ),
    ),
)
GROUPS = {
    "weights": "read, compare, write and share backbones; public checkpoints",
    "data": "draw or check a labelled data set",
    "speed": "measure speed, the usual way and ours in one run",
}


def parser(version: str) -> options.Parser:
    """The parser of all commands. The parsed arguments' `command` is the command's
    name, one or two words."""
    return options.parser(version, COMMANDS, GROUPS)
