"""Distributions of tasks, and the module that serves them to Lightning."""

from litmaml.data.any_way import AnyWay
from litmaml.data.augment import Augment
from litmaml.data.dataset_tasks import DatasetTasks
from litmaml.data.episode import Episode
from litmaml.data.finite_tasks import FiniteTasks
from litmaml.data.glyphs import Glyphs
from litmaml.data.image_folder import ImageFolderTasks
from litmaml.data.image_table import ImageTable
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat, ImagePool
from litmaml.data.learn2learn_tasks import Learn2LearnTasks
from litmaml.data.mask_tasks import MaskTasks
from litmaml.data.mixture import Mixture
from litmaml.data.omniglot import Omniglot
from litmaml.data.online_tasks import OnlineTasks
from litmaml.data.sinusoid import Sinusoid
from litmaml.data.table_tasks import TableTasks
from litmaml.data.task_data_module import TaskDataModule
from litmaml.data.task_distribution import TaskDistribution
from litmaml.data.text_encoders import StaticEmbeddings, TextEncoder, Tokens
from litmaml.data.text_tasks import TextTasks

__all__ = [
    "AnyWay",
    "Augment",
    "DatasetTasks",
    "Episode",
    "FiniteTasks",
    "Glyphs",
    "ImageFolderTasks",
    "ImageFormat",
    "ImagePool",
    "ImageTable",
    "ImageTasks",
    "Learn2LearnTasks",
    "MaskTasks",
    "Mixture",
    "Omniglot",
    "OnlineTasks",
    "Sinusoid",
    "StaticEmbeddings",
    "TableTasks",
    "TaskDataModule",
    "TaskDistribution",
    "TextEncoder",
    "TextTasks",
    "Tokens",
]
