// The tensors that the checkpoint of a model must hold, family by family.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/model_config.h"

namespace wideep::models {

enum class TensorKind {
  kLinear,     // [out, in], or [experts, in, out] where the experts are stacked
  kEmbedding,  // [vocab, hidden]: token embedding, output head
  kNorm,       // [width]
  kBias,       // [out], the router's correction bias too
};

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  TensorKind kind = TensorKind::kLinear;
  bool may_be_fp8 = false;   // with scales in NAME_scale_inv
  bool is_optional = false;  // fine without it
};

// What the names of all tensors begin with: "" but for text models inside of others.
std::string name_prefix(const ModelConfig& model);

// In the order of the forward pass, experts ascending; scales are not listed, MTP layers and vision
// towers neither. DeepSeek-R1's has 45,000 entries.
std::vector<TensorSpec> tensor_list(const ModelConfig& model);

// Is this a tensor that the family's checkpoints may hold and the engine has no use for? Rotary
// inverse frequencies, the layers of multi-token prediction, the vision part of Llama 4.
bool is_harmless_extra(std::string_view name, const ModelConfig& model);

}  // namespace wideep::models
