#include "models/attention_gqa.h"

#include <cmath>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/heads.h"
#include "kernels/linear.h"
#include "kernels/position_factors.h"
#include "kernels/rope.h"
#include "models/attention_core.h"

namespace wideep::models {
namespace {

enum class QkNorm {
  kNone,
  kBeforeRope,  // Qwen3: with weights
  kAfterRope,   // Llama 4: without
};

class GqaAttention : public Attention {
 public:
  GqaAttention(const AttentionOptions& options, WeightStore& store);

  Status forward(const ForwardPass& pass, ConstMatrixView x, const kernels::KvCacheView& cache,
                 MatrixView y) const override;
  int num_heads() const override { return num_heads_; }
  kernels::KvCacheView cache_layout() const override;
  int64_t scratch_bytes(int max_rows, int cp) const override;

 private:
  void plan_weights(const AttentionOptions& options, WeightStore& store);
  void plan_bias(const AttentionOptions& options, WeightStore& store);
  void choose_rules(const AttentionOptions& options, WeightStore& store);
  // Queries [own rows, heads * head_dim], keys and values as the cache keeps them.
  void project(const ForwardPass& pass, ConstMatrixView x, MatrixView q, MatrixView kv) const;
  void position(const ForwardPass& pass, MatrixView q, MatrixView kv) const;
  void norm(const ForwardPass& pass, MatrixView q, MatrixView kv) const;
  void scale_temperature(const ForwardPass& pass, MatrixView q) const;

  int num_heads_ = 0;
  int kv_heads_ = 0;
  int head_dim_ = 0;
  float eps_ = 0;

  QkNorm qk_norm_ = QkNorm::kNone;
  bool uses_rope_ = true;
  bool is_interleaved_ = false;
  int chunk_size_ = 0;
  // Llama 4's layers without rope: queries grow with the logarithm of their position.
  bool tunes_temperature_ = false;
  double floor_scale_ = 1;
  double attn_scale_ = 0;

  const kernels::PackedWeight* q_proj_ = nullptr;
  const kernels::PackedWeight* kv_proj_ = nullptr;  // for each KV head its key rows, its value rows
  const kernels::PackedWeight* o_proj_ = nullptr;
  const std::span<const float>* o_bias_ = nullptr;  // on the first rank of the tp group
  const std::span<const float>* q_bias_ = nullptr;
  std::vector<const std::span<const float>*> kv_bias_;  // [kv_heads * 2]: key, value
  const std::span<const float>* q_norm_ = nullptr;
  const std::span<const float>* k_norm_ = nullptr;
};

GqaAttention::GqaAttention(const AttentionOptions& options, WeightStore& store)
    : num_heads_(options.share.heads.size()),
      kv_heads_(options.share.kv_heads.size()),
      head_dim_(options.config->head_dim),
      eps_(static_cast<float>(options.config->rms_norm_eps)),
      is_interleaved_(options.config->rope.interleaved) {
  plan_weights(options, store);
  if (options.config->attention_bias) plan_bias(options, store);
  choose_rules(options, store);
}

void GqaAttention::plan_weights(const AttentionOptions& options, WeightStore& store) {
  const ModelConfig& config = *options.config;
  const auto rows = [&](const char* name, int begin_head, int num_heads) {
    MatrixRequest request;
    request.name = options.prefix + name + ".weight";
    request.row_begin = int64_t{begin_head} * head_dim_;
    request.row_end = request.row_begin + int64_t{num_heads} * head_dim_;
    request.column_end = config.hidden_size;
    return request;
  };
  const Share& heads = options.share.heads;
  q_proj_ = &store.add_linear({rows("q_proj", heads.begin, num_heads_)}, options.weight_dtype);
  std::vector<MatrixRequest> kv;
  for (int head = options.share.kv_heads.begin; head < options.share.kv_heads.end; ++head) {
    kv.push_back(rows("k_proj", head, 1));
    kv.push_back(rows("v_proj", head, 1));
  }
  kv_proj_ = &store.add_linear(std::move(kv), options.weight_dtype);
  MatrixRequest o_proj;
  o_proj.name = options.prefix + "o_proj.weight";
  o_proj.row_end = config.hidden_size;
  o_proj.column_begin = int64_t{heads.begin} * head_dim_;
  o_proj.column_end = int64_t{heads.end} * head_dim_;
  o_proj_ = &store.add_linear({o_proj}, options.weight_dtype);
}

void GqaAttention::plan_bias(const AttentionOptions& options, WeightStore& store) {
  const auto bias = [&](const char* name, int begin_head, int end_head) {
    return &store.add_vector({options.prefix + name + ".bias", int64_t{begin_head} * head_dim_,
                              int64_t{end_head} * head_dim_});
  };
  q_bias_ = bias("q_proj", options.share.heads.begin, options.share.heads.end);
  for (int head = options.share.kv_heads.begin; head < options.share.kv_heads.end; ++head) {
    kv_bias_.push_back(bias("k_proj", head, head + 1));
    kv_bias_.push_back(bias("v_proj", head, head + 1));
  }
  if (options.share.heads.begin == 0) {
    o_bias_ = &store.add_vector({options.prefix + "o_proj.bias", 0, options.config->hidden_size});
  }
}

void GqaAttention::choose_rules(const AttentionOptions& options, WeightStore& store) {
  const ModelConfig& config = *options.config;
  if (config.family == ModelFamily::kQwen3Moe) {
    qk_norm_ = QkNorm::kBeforeRope;
    q_norm_ = &store.add_vector({options.prefix + "q_norm.weight", 0, head_dim_});
    k_norm_ = &store.add_vector({options.prefix + "k_norm.weight", 0, head_dim_});
  }
  if (config.llama4) {
    const Llama4Config& llama4 = *config.llama4;
    uses_rope_ = llama4.uses_rope[options.layer];
    if (uses_rope_) {
      chunk_size_ = llama4.attention_chunk_size;
      if (llama4.use_qk_norm) qk_norm_ = QkNorm::kAfterRope;
    } else {
      tunes_temperature_ = llama4.attn_temperature_tuning;
      floor_scale_ = llama4.floor_scale;
      attn_scale_ = llama4.attn_scale;
    }
  }
}

kernels::KvCacheView GqaAttention::cache_layout() const {
  kernels::KvCacheView layout;
  layout.kv_heads = kv_heads_;
  layout.row_dim = 2 * head_dim_;
  layout.k_dim = head_dim_;
  layout.v_offset = head_dim_;
  layout.v_dim = head_dim_;
  return layout;
}

int64_t GqaAttention::scratch_bytes(int max_rows, int cp) const {
  const kernels::KvCacheView layout = cache_layout();
  return 2 * Arena::matrix_bytes(max_rows, int64_t{num_heads_} * head_dim_) +
         Arena::matrix_bytes(max_rows, layout.token_elements()) + Arena::matrix_bytes(max_rows, 1) +
         attend_scratch_bytes(layout, num_heads_, max_rows, cp);
}

void GqaAttention::norm(const ForwardPass& pass, MatrixView q, MatrixView kv) const {
  kernels::norm_heads(*pass.stream, {q, head_dim_, num_heads_, head_dim_,
                                     q_norm_ != nullptr ? q_norm_->data() : nullptr, eps_});
  kernels::norm_heads(*pass.stream, {kv, int64_t{2} * head_dim_, kv_heads_, head_dim_,
                                     k_norm_ != nullptr ? k_norm_->data() : nullptr, eps_});
}

void GqaAttention::scale_temperature(const ForwardPass& pass, MatrixView q) const {
  const Arena::Scope scope(*pass.arena);
  const std::span<float> factors = pass.arena->take<float>(pass.own_rows());
  kernels::position_factors(*pass.stream, {pass.positions.subspan(pass.own_begin, pass.own_rows()),
                                           floor_scale_, attn_scale_, factors});
  kernels::scale_rows(*pass.stream, factors, q);
}

void GqaAttention::position(const ForwardPass& pass, MatrixView q, MatrixView kv) const {
  if (!uses_rope_) return;
  kernels::rope(*pass.stream, {kernels::in_place(q, head_dim_, num_heads_),
                               kernels::in_place(kv, int64_t{2} * head_dim_, kv_heads_), pass.rope,
                               is_interleaved_});
}

void GqaAttention::project(const ForwardPass& pass, ConstMatrixView x, MatrixView q,
                           MatrixView kv) const {
  kernels::linear(*pass.stream, x, *q_proj_, q);
  kernels::linear(*pass.stream, x, *kv_proj_, kv);
  if (q_bias_ == nullptr) return;
  kernels::add_bias(*pass.stream, q_bias_->data(), q);
  for (int part = 0; part < std::ssize(kv_bias_); ++part) {
    kernels::add_bias(*pass.stream, kv_bias_[part]->data(),
                      kv.column_range(int64_t{part} * head_dim_, head_dim_));
  }
}

Status GqaAttention::forward(const ForwardPass& pass, ConstMatrixView x,
                             const kernels::KvCacheView& cache, MatrixView y) const {
  const Arena::Scope scope(*pass.arena);
  const int64_t columns = int64_t{num_heads_} * head_dim_;
  const MatrixView q = pass.matrix(pass.own_rows(), columns);
  const MatrixView kv = pass.matrix(pass.own_rows(), cache.token_elements());
  project(pass, x, q, kv);
  if (qk_norm_ == QkNorm::kBeforeRope) norm(pass, q, kv);
  position(pass, q, kv);
  if (qk_norm_ == QkNorm::kAfterRope) norm(pass, q, kv);
  if (tunes_temperature_) scale_temperature(pass, q);

  const MatrixView out = pass.matrix(pass.own_rows(), columns);
  AttendParams params;
  params.q = q;
  params.kv = kv;
  params.num_heads = num_heads_;
  params.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim_)));
  params.chunk_size = chunk_size_;
  params.out = out;
  RETURN_IF_ERROR(attend(pass, cache, params));
  kernels::linear(*pass.stream, out, *o_proj_, y);
  if (o_bias_ != nullptr) kernels::add_bias(*pass.stream, o_bias_->data(), y);
  return Status::ok();
}

}  // namespace

std::unique_ptr<Attention> make_gqa_attention(const AttentionOptions& options, WeightStore& store) {
  return std::make_unique<GqaAttention>(options, store);
}

}  // namespace wideep::models
