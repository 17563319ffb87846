// Front door of config/: what the user asks for and what the model is, checked once at start.
//
//   engine_config.h      the engine's arguments: YAML file + flags -> EngineConfig, every violation
//   at
//                        once with its place; writes a resolved configuration and the key table
//   balancer_config.h    the load balancer's section or file: slots and assignments
//   model_config.h       a checkpoint's config.json -> ModelConfig
//   generation_config.h  its generation_config.json: end of sequence, defaults of sampling
//   mapping.h            rank -> coordinates and groups
//   check.h              rules over several keys and between keys and model
//   limits.h             the sizes that everything is built for
//
// All are plain structs, one comment a field; nothing here keeps state, opens sockets or knows that
// GPUs exist. Callers need not learn yaml.h, schema.h and the tables behind them.
#pragma once

#include "config/balancer_config.h"
#include "config/check.h"
#include "config/engine_config.h"
#include "config/generation_config.h"
#include "config/limits.h"
#include "config/mapping.h"
#include "config/model_config.h"
