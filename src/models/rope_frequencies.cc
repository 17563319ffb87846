#include "models/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/float_formats.h"

namespace wideep::models {
namespace {

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

void scale_yarn(const RopeConfig& config, int dim, RopeFrequencies& frequencies) {
  // The index whose frequency turns so many times within the original context.
  const auto index_of_turns = [&](double turns) {
    return dim *
           std::log(config.original_max_position_embeddings / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
  };
  const int half = dim / 2;
  const double low = std::max(std::floor(index_of_turns(config.beta_fast)), 0.0);
  const double high = std::min(std::ceil(index_of_turns(config.beta_slow)), dim - 1.0);
  const double width = std::max(high - low, 0.001);
  for (int i = 0; i < half; ++i) {
    const double stretched = std::clamp((i - low) / width, 0.0, 1.0);
    double& f = frequencies.inv_freq[i];
    f = f / config.factor * stretched + f * (1 - stretched);
  }
  if (config.attention_factor) {
    frequencies.factor = *config.attention_factor;
  } else if (config.mscale && config.mscale_all_dim) {
    frequencies.factor = yarn_mscale(config.factor, *config.mscale) /
                         yarn_mscale(config.factor, *config.mscale_all_dim);
  } else {
    frequencies.factor = yarn_mscale(config.factor, 1);
  }
}

void scale_llama3(const RopeConfig& config, RopeFrequencies& frequencies) {
  const double original = config.original_max_position_embeddings;
  for (double& f : frequencies.inv_freq) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength > original / config.low_freq_factor) {
      f /= config.factor;
    } else if (wavelength > original / config.high_freq_factor) {
      const double smooth = (original / wavelength - config.low_freq_factor) /
                            (config.high_freq_factor - config.low_freq_factor);
      f = (1 - smooth) * f / config.factor + smooth * f;
    }
  }
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeConfig& config, int dim) {
  RopeFrequencies frequencies;
  for (int i = 0; i < dim / 2; ++i) {
    frequencies.inv_freq.push_back(std::pow(config.theta, -2.0 * i / dim));
  }
  if (config.type == RopeType::kYarn) scale_yarn(config, dim, frequencies);
  if (config.type == RopeType::kLlama3) scale_llama3(config, frequencies);
  return frequencies;
}

void round_to_bf16(RopeFrequencies& frequencies) {
  for (double& f : frequencies.inv_freq) f = bf16_to_float(float_to_bf16(static_cast<float>(f)));
}

double yarn_softmax_factor(const RopeConfig& config) {
  if (config.type != RopeType::kYarn || config.mscale_all_dim.value_or(0) == 0) return 1;
  const double m = yarn_mscale(config.factor, *config.mscale_all_dim);
  return m * m;
}

}  // namespace wideep::models
