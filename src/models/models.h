// Front door of models/: a rank's part of a model, and its weights. Others need not learn the rest
// of the folder.
//
//   model.h            the forward pass over a batch, collective over the ranks of a replica
//   weight_source.h    parts of matrices and vectors as float or bf16, from a checkpoint or made up
//   checkpoint.h       the folder of safetensors files behind it
//   tensor_list.h      the tensors of a model by family: names, shapes, what may be FP8
//   verify.h           does a checkpoint hold the model that its config.json describes?
//
// A source owns its files; what it reads belongs to the caller, who also chose the memory. Reads
// are thread-safe.
#pragma once

#include "models/checkpoint.h"
#include "models/model.h"
#include "models/tensor_list.h"
#include "models/verify.h"
#include "models/weight_source.h"
