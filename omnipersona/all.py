"""What a student calls, for notebooks: `from omnipersona.all import *`.

Everything else is imported from its own module. Written by hand; tests keep the list short, and free of names that
notebooks use already."""

from .basics import OmniError, seed_all
from .pictures import load_image, show_images
from .data import ConceptData
from .toyworld.draw import Traits
from .toyworld.scenes import Character
from .toyworld.world import ToyWorld
from .toyworld.judge import ToyJudge
from .model.flow import SamplingConfig
from .model.backbone import Backbone
from .model.loading import load_backbone
from .model.memory import plan, plan_table
from .model.sizes import at_size
from .concept.concept import Concept, TextPrompt
from .concept.sampling import SamplesPerStep
from .concept.losses import Recipe
from .concept.learn import learn, loss_figure
from .concept.learner import Learner
from .concept.replay import ReplayConfig, Trace
from .differences import difference, effect_figure
from .concept.persona import Persona, Result
from .concept.photo_kit import PhotoKit
from .inside.concept_maps import ConceptMaps, concept_maps, heat_image, maps_figure
from .inside.localization import find_character, iou_by_layer, photo_maps, pointing_by_layer
from .inside.ablation import ablate, answer_attention, answer_effects, token_figure, word_figure
from .inside.picture_ablation import attention_and_effect, effects_figure, every_token, picture_effects
from .inside.expert_attention import expert_attention, expert_attention_figure, with_rollout
from .inside.edit_attention import edit_maps, edit_maps_figure
from .inside.crosstask import ConflictProbe, conflict_figure, gradient_conflict, propagation_figure
from .inside.geometry import Snapshots, geometry_figure, token_geometry, token_history
from .widgets.studio import ConceptStudio
from .widgets.replay_explorer import ReplayExplorer
from .widgets.boards import CrossTaskBoard, TokenMap
from .widgets.attention_explorer import AttentionExplorer, recorded
from .widgets.photo_review import PhotoReview

__all__ = [
    "AttentionExplorer",
    "Backbone",
    "Character",
    "Concept",
    "ConceptData",
    "ConceptMaps",
    "ConceptStudio",
    "ConflictProbe",
    "CrossTaskBoard",
    "Learner",
    "OmniError",
    "Persona",
    "PhotoKit",
    "PhotoReview",
    "Recipe",
    "ReplayConfig",
    "ReplayExplorer",
    "Result",
    "SamplesPerStep",
    "SamplingConfig",
    "Snapshots",
    "TextPrompt",
    "TokenMap",
    "ToyJudge",
    "ToyWorld",
    "Trace",
    "Traits",
    "ablate",
    "answer_attention",
    "answer_effects",
    "at_size",
    "attention_and_effect",
    "concept_maps",
    "conflict_figure",
    "difference",
    "edit_maps",
    "edit_maps_figure",
    "effect_figure",
    "effects_figure",
    "every_token",
    "expert_attention",
    "expert_attention_figure",
    "find_character",
    "geometry_figure",
    "gradient_conflict",
    "heat_image",
    "iou_by_layer",
    "learn",
    "load_backbone",
    "load_image",
    "loss_figure",
    "maps_figure",
    "photo_maps",
    "picture_effects",
    "plan",
    "plan_table",
    "pointing_by_layer",
    "propagation_figure",
    "recorded",
    "seed_all",
    "show_images",
    "token_figure",
    "token_geometry",
    "token_history",
    "with_rollout",
    "word_figure",
]
