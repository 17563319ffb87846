// Token-level routing recorded from real text: npy arrays [tokens, layers, top_k] of expert ids,
// tokens in text order. The files stay mapped; nothing is copied.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "eplb/types.h"

namespace wideep::eplb {

class Trace {
 public:
  // Opens one or more npy files with the same layers and top_k; their texts are put in a row. Ids
  // are u1, u2, i2, i4 or i8; an id that is negative, or all ones in an unsigned type, is "not
  // routed". A text's length comes from `<name>.lens.json` (a list of ints that sums to the tokens)
  // beside
  // `<name>.npy` where it exists; else the file is one text. Layers are numbered from
  // `first_layer`. num_experts 0: the largest id + 1.
  static Result<Trace> open(const std::vector<std::string>& paths, int num_experts = 0,
                            int first_layer = 0);

  Trace(Trace&&) noexcept;
  Trace& operator=(Trace&&) noexcept;
  ~Trace();

  int64_t num_tokens() const;
  int num_layers() const;
  int top_k() const;
  int num_experts() const;
  const std::vector<int>& layers() const;
  // [num_texts + 1] first token of each text, and num_tokens at the end.
  const std::vector<int64_t>& text_starts() const;

  // Expert ids [top_k] of one token in one layer (row of layers()), -1 where not routed.
  void experts(int64_t token, int layer_index, int* out) const;

 private:
  struct Impl;
  explicit Trace(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Counts over all tokens.
Load total_load(const Trace& trace);

}  // namespace wideep::eplb
