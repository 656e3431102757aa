"""The engine `detectron2`: the papers' protocols; the only importer of Detectron2."""
