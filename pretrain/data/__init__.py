"""Pictures to pretrain on: listed, decoded, made into views."""
