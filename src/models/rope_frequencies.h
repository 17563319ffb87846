// Rotary frequencies of a model: plain, YaRN (DeepSeek) or llama3 scaling.
#pragma once

#include <vector>

#include "config/model_config.h"

namespace wideep::models {

struct RopeFrequencies {
  std::vector<double> inv_freq;  // [dim / 2], radians a position
  double factor = 1;             // multiplies cos and sin
};

// `dim`: columns that are rotated. YaRN: arXiv 2309.00071, section 3, as DeepSeek's published
// configuration uses it: frequencies that turn more than beta_fast times within the original
// context stay, those below beta_slow turns are divided by the factor, between them a linear ramp.
// llama3: the published rule of Llama 3.1, with a smooth blend between two wavelengths.
RopeFrequencies rope_frequencies(const RopeConfig& config, int dim);

// Rounds the frequencies to bf16, to nearest even.
void round_to_bf16(RopeFrequencies& frequencies);

// What DeepSeek's attention multiplies the softmax scale by: (0.1 mscale_all_dim ln(factor) + 1)^2
// with YaRN and mscale_all_dim, else 1.
double yarn_softmax_factor(const RopeConfig& config);

}  // namespace wideep::models
