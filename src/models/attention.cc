#include "models/attention.h"

#include <algorithm>

#include "models/attention_gqa.h"
#include "models/attention_mla.h"

namespace wideep::models {

HeadShare head_share(const ModelConfig& config, int tp, int tp_rank) {
  CHECK(config.num_attention_heads % tp == 0);
  HeadShare share;
  share.heads = share_of(config.num_attention_heads, tp, tp_rank);
  const int kv_heads = config.mla ? 1 : config.num_key_value_heads;
  const int heads_of_kv = config.num_attention_heads / kv_heads;
  share.kv_heads.begin = share.heads.begin / heads_of_kv;
  share.kv_heads.end = (share.heads.end - 1) / heads_of_kv + 1;
  return share;
}

std::unique_ptr<Attention> make_attention(const AttentionOptions& options, WeightStore& store) {
  return options.config->mla ? make_mla_attention(options, store)
                             : make_gqa_attention(options, store);
}

}  // namespace wideep::models
