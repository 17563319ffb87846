// The heads of a layer, as tests and benchmarks of attention choose them.
#pragma once

namespace wideep::kernels {

struct AttentionShape {
  const char* name;
  int num_heads;
  int kv_heads;
  int row_dim;
  int k_dim;
  int v_offset;
  int v_dim;
};

}  // namespace wideep::kernels
