// The front door of the balancer: pure functions over plain structs (eplb/types.h). It knows
// nothing of GPUs, networks or engines; the same functions run in the tools, in the engine and on
// every rank.
//
//   loads       load.h, statistics.h, trace.h   read what was measured
//   planner     planner.h, workload.h           loads -> plan
//   split       split.h                         a batch's counts + plan -> tokens of each slot,
//   exact evaluation  evaluate.h, sampler.h           how good a plan is plans       plan_file.h
//   YAML in and out
#pragma once

#include "eplb/evaluate.h"
#include "eplb/load.h"
#include "eplb/moves.h"
#include "eplb/plan_file.h"
#include "eplb/plan_quality.h"
#include "eplb/planner.h"
#include "eplb/sampler.h"
#include "eplb/split.h"
#include "eplb/statistics.h"
#include "eplb/trace.h"
#include "eplb/types.h"
#include "eplb/workload.h"
