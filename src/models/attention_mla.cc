#include "models/attention_mla.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "kernels/attention_tables.h"
#include "kernels/elementwise.h"
#include "kernels/heads.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "kernels/self_attention.h"
#include "models/attention_core.h"
#include "models/rope_frequencies.h"
#include "models/weight_type.h"

namespace wideep::models {
namespace {

// The up-projections of keys and values are moved to the queries and the outputs (arXiv 2405.04434,
// section 2.1.2), so that attention runs on the latents alone and all heads share one KV row:
//   q_nope . (W_UK c) = (W_UK^T q_nope) . c,   sum_t p_t (W_UV c_t) = W_UV (sum_t p_t c_t)
// On the CPU prefill and decode take the same path, so their bits agree. On a GPU, batches of whole
// prompts attend before absorption, which is a third of the work.
class MlaAttention : public Attention {
 public:
  MlaAttention(const AttentionOptions& options, WeightStore& store);

  Status forward(const ForwardPass& pass, ConstMatrixView x, const kernels::KvCacheView& cache,
                 MatrixView y) const override;
  int num_heads() const override { return num_heads_; }
  SelfDims self_dims() const override {
    return kv_b_proj_ == nullptr ? SelfDims{} : SelfDims{head_dim_, mla_.v_head_dim};
  }
  kernels::KvCacheView cache_layout() const override;
  int64_t scratch_bytes(int max_rows, int cp) const override;

 private:
  void plan_projections(const AttentionOptions& options, WeightStore& store);
  void plan_bias(const AttentionOptions& options, WeightStore& store);
  void plan_absorbed(const AttentionOptions& options, WeightStore& store);
  int latent_columns() const { return q_lora_ + mla_.kv_lora_rank + mla_.qk_rope_head_dim; }
  int k_dim() const { return mla_.kv_lora_rank + mla_.qk_rope_head_dim; }
  // A batch's rows, [own rows, columns].
  struct Rows {
    MatrixView latents;  // x after the down projection
    MatrixView q;        // before absorption, heads * head_dim columns
    MatrixView kv;       // the cache's new rows, k_dim columns
  };
  // x to all rows, whose last columns rope has not turned.
  void project(const ForwardPass& pass, ConstMatrixView x, const Rows& rows) const;
  // Turns keys into kv, and the queries' last columns into those of q's heads at `to`.
  void turn(const ForwardPass& pass, const Rows& rows, MatrixView to, int64_t to_head_stride) const;
  // q to queries over the latents, [own rows, heads * k_dim].
  void absorb(const ForwardPass& pass, const Rows& rows, MatrixView absorbed) const;
  // What heads give before o_proj, [own rows, heads * v], by way of the latents or of the rows
  // themselves.
  Status attend_latents(const ForwardPass& pass, const kernels::KvCacheView& cache,
                        const Rows& rows, MatrixView out) const;
  void attend_rows(const ForwardPass& pass, const kernels::KvCacheView& cache, const Rows& rows,
                   MatrixView out) const;

  MlaConfig mla_;
  int num_heads_ = 0;
  int head_dim_ = 0;  // of queries: nope + rope
  int q_lora_ = 0;    // 0: queries are projected at once
  float scale_ = 1;
  bool is_interleaved_ = true;

  const kernels::PackedWeight* down_proj_ = nullptr;  // [q_a; kv_a]
  const kernels::PackedWeight* q_proj_ = nullptr;     // q_b, or q_proj without q_lora
  const kernels::PackedWeight* o_proj_ = nullptr;
  const kernels::PackedWeight* kv_b_proj_ = nullptr;  // [heads * (nope + v), kv_lora], on a GPU
  const std::vector<kernels::PackedWeight>* uk_ = nullptr;  // [heads] of [kv_lora, nope]
  const std::vector<kernels::PackedWeight>* uv_ = nullptr;  // [heads] of [v, kv_lora]
  const std::span<const float>* q_a_bias_ = nullptr;
  const std::span<const float>* kv_a_bias_ = nullptr;
  const std::span<const float>* o_bias_ = nullptr;  // on the first rank of the tp group
  const std::span<const float>* q_norm_ = nullptr;
  const std::span<const float>* kv_norm_ = nullptr;
};

// The epsilon of the latents' norms is the reference class's default, not the model's.
constexpr float kLatentNormEps = 1e-6F;

MlaAttention::MlaAttention(const AttentionOptions& options, WeightStore& store)
    : mla_(*options.config->mla),
      num_heads_(options.share.heads.size()),
      head_dim_(mla_.qk_nope_head_dim + mla_.qk_rope_head_dim),
      q_lora_(mla_.q_lora_rank.value_or(0)),
      is_interleaved_(options.config->rope.interleaved) {
  scale_ = static_cast<float>(yarn_softmax_factor(options.config->rope) /
                              std::sqrt(static_cast<double>(head_dim_)));
  plan_projections(options, store);
  if (options.config->attention_bias) plan_bias(options, store);
  plan_absorbed(options, store);
}

void MlaAttention::plan_projections(const AttentionOptions& options, WeightStore& store) {
  const int hidden = options.config->hidden_size;
  const auto matrix = [&](const char* name, int64_t rows, int64_t columns) {
    MatrixRequest request;
    request.name = options.prefix + name + ".weight";
    request.row_end = rows;
    request.column_end = columns;
    return request;
  };
  const Share& heads = options.share.heads;
  std::vector<MatrixRequest> down;
  if (q_lora_ > 0) {
    down.push_back(matrix("q_a_proj", q_lora_, hidden));
    q_norm_ = &store.add_vector({options.prefix + "q_a_layernorm.weight", 0, q_lora_});
  }
  down.push_back(matrix("kv_a_proj_with_mqa", k_dim(), hidden));
  kv_norm_ = &store.add_vector({options.prefix + "kv_a_layernorm.weight", 0, mla_.kv_lora_rank});
  down_proj_ = &store.add_linear(std::move(down), options.weight_dtype);

  MatrixRequest q = q_lora_ > 0 ? matrix("q_b_proj", 0, q_lora_) : matrix("q_proj", 0, hidden);
  q.row_begin = int64_t{heads.begin} * head_dim_;
  q.row_end = int64_t{heads.end} * head_dim_;
  q_proj_ = &store.add_linear({q}, options.weight_dtype);

  MatrixRequest o = matrix("o_proj", hidden, 0);
  o.column_begin = int64_t{heads.begin} * mla_.v_head_dim;
  o.column_end = int64_t{heads.end} * mla_.v_head_dim;
  o_proj_ = &store.add_linear({o}, options.weight_dtype);
}

void MlaAttention::plan_bias(const AttentionOptions& options, WeightStore& store) {
  const std::string& prefix = options.prefix;
  if (q_lora_ > 0) q_a_bias_ = &store.add_vector({prefix + "q_a_proj.bias", 0, q_lora_});
  kv_a_bias_ = &store.add_vector({prefix + "kv_a_proj_with_mqa.bias", 0, k_dim()});
  if (options.share.heads.begin == 0) {
    o_bias_ = &store.add_vector({prefix + "o_proj.bias", 0, options.config->hidden_size});
  }
}

void MlaAttention::plan_absorbed(const AttentionOptions& options, WeightStore& store) {
  // kv_b_proj [heads * (nope + v), kv_lora]: for each head W_UK above W_UV.
  const int64_t head_rows = mla_.qk_nope_head_dim + mla_.v_head_dim;
  std::vector<std::vector<MatrixRequest>> uks;
  std::vector<std::vector<MatrixRequest>> uvs;
  for (int head = options.share.heads.begin; head < options.share.heads.end; ++head) {
    MatrixRequest uk;
    uk.name = options.prefix + "kv_b_proj.weight";
    uk.transposed = true;
    uk.row_end = mla_.kv_lora_rank;
    uk.column_begin = head * head_rows;
    uk.column_end = uk.column_begin + mla_.qk_nope_head_dim;
    uks.push_back({uk});
    MatrixRequest uv;
    uv.name = uk.name;
    uv.row_begin = head * head_rows + mla_.qk_nope_head_dim;
    uv.row_end = (head + 1) * head_rows;
    uv.column_end = mla_.kv_lora_rank;
    uvs.push_back({uv});
  }
  uk_ = &store.add_linear_group(std::move(uks), unquantized(options.weight_dtype));
  uv_ = &store.add_linear_group(std::move(uvs), unquantized(options.weight_dtype));
  if (options.on_gpu) {
    MatrixRequest kv_b;
    kv_b.name = options.prefix + "kv_b_proj.weight";
    kv_b.row_begin = options.share.heads.begin * head_rows;
    kv_b.row_end = options.share.heads.end * head_rows;
    kv_b.column_end = mla_.kv_lora_rank;
    kv_b_proj_ = &store.add_linear({kv_b}, options.weight_dtype);
  }
}

kernels::KvCacheView MlaAttention::cache_layout() const {
  kernels::KvCacheView layout;
  layout.kv_heads = 1;
  layout.row_dim = k_dim();
  layout.k_dim = k_dim();
  layout.v_offset = 0;
  layout.v_dim = mla_.kv_lora_rank;
  return layout;
}

int64_t MlaAttention::scratch_bytes(int max_rows, int cp) const {
  const kernels::KvCacheView layout = cache_layout();
  return Arena::matrix_bytes(max_rows, latent_columns()) +
         Arena::matrix_bytes(max_rows, int64_t{num_heads_} * head_dim_) +
         Arena::matrix_bytes(max_rows, k_dim()) +
         Arena::matrix_bytes(max_rows, int64_t{num_heads_} * k_dim()) +
         Arena::matrix_bytes(max_rows, int64_t{num_heads_} * layout.v_dim) +
         Arena::matrix_bytes(max_rows, int64_t{num_heads_} * mla_.v_head_dim) +
         (kv_b_proj_ == nullptr ? 0 : Arena::matrix_bytes(max_rows, kv_b_proj_->out_features)) +
         attend_scratch_bytes(layout, num_heads_, max_rows, cp);
}

void MlaAttention::project(const ForwardPass& pass, ConstMatrixView x, const Rows& rows) const {
  Stream& stream = *pass.stream;
  const MatrixView& latents = rows.latents;
  kernels::linear(stream, x, *down_proj_, latents);
  if (q_a_bias_ != nullptr) {
    kernels::add_bias(stream, q_a_bias_->data(), latents.column_range(0, q_lora_));
  }
  if (kv_a_bias_ != nullptr) {
    kernels::add_bias(stream, kv_a_bias_->data(), latents.column_range(q_lora_, k_dim()));
  }
  const kernels::RmsNormParams kv_norm = {latents.column_range(q_lora_, mla_.kv_lora_rank),
                                          kv_norm_->data(), kLatentNormEps,
                                          rows.kv.column_range(0, mla_.kv_lora_rank)};
  if (q_lora_ > 0) {
    const MatrixView q_latent = latents.column_range(0, q_lora_);
    kernels::rms_norm_pair(stream, {q_latent, q_norm_->data(), kLatentNormEps, q_latent}, kv_norm);
    kernels::linear(stream, q_latent, *q_proj_, rows.q);
  } else {
    kernels::rms_norm(stream, kv_norm);
    kernels::linear(stream, x, *q_proj_, rows.q);
  }
}

void MlaAttention::turn(const ForwardPass& pass, const Rows& rows, MatrixView to,
                        int64_t to_head_stride) const {
  const int nope = mla_.qk_nope_head_dim;
  const int rope = mla_.qk_rope_head_dim;
  const MatrixView q_rope = rows.q.column_range(nope, rows.q.columns - nope);
  kernels::rope(*pass.stream, {{q_rope, head_dim_, to, to_head_stride, num_heads_},
                               {rows.latents.column_range(q_lora_ + mla_.kv_lora_rank, rope), 0,
                                rows.kv.column_range(mla_.kv_lora_rank, rope), 0, 1},
                               pass.rope,
                               is_interleaved_});
}

void MlaAttention::absorb(const ForwardPass& pass, const Rows& rows, MatrixView absorbed) const {
  const int64_t lora = mla_.kv_lora_rank;
  turn(pass, rows, absorbed.column_range(lora, absorbed.columns - lora), k_dim());
  kernels::head_linear(*pass.stream, {rows.q, head_dim_, *uk_, absorbed, k_dim()});
}

Status MlaAttention::attend_latents(const ForwardPass& pass, const kernels::KvCacheView& cache,
                                    const Rows& rows, MatrixView out) const {
  const MatrixView absorbed = pass.matrix(rows.q.rows, int64_t{num_heads_} * k_dim());
  absorb(pass, rows, absorbed);
  const MatrixView latent_out = pass.matrix(rows.q.rows, int64_t{num_heads_} * cache.v_dim);
  AttendParams params;
  params.q = absorbed;
  params.kv = rows.kv;
  params.num_heads = num_heads_;
  params.scale = scale_;
  params.out = latent_out;
  RETURN_IF_ERROR(attend(pass, cache, params));
  kernels::head_linear(*pass.stream, {latent_out, cache.v_dim, *uv_, out, mla_.v_head_dim});
  return Status::ok();
}

void MlaAttention::attend_rows(const ForwardPass& pass, const kernels::KvCacheView& cache,
                               const Rows& rows, MatrixView out) const {
  Stream& stream = *pass.stream;
  const MatrixView& q = rows.q;
  const MatrixView& kv = rows.kv;
  turn(pass, rows, q.column_range(mla_.qk_nope_head_dim, q.columns - mla_.qk_nope_head_dim),
       head_dim_);
  kernels::kv_append(stream, kv, pass.slots, cache);
  const int nope = mla_.qk_nope_head_dim;
  const int head_columns = nope + mla_.v_head_dim;
  const MatrixView up = pass.matrix(q.rows, int64_t{num_heads_} * head_columns);
  kernels::linear(stream, kv.column_range(0, mla_.kv_lora_rank), *kv_b_proj_, up);
  const MatrixView k = pass.matrix(q.rows, int64_t{num_heads_} * head_dim_);
  kernels::copy_heads(stream, {up, head_columns, k, head_dim_, num_heads_, nope});
  // All heads have the same rotated part.
  kernels::copy_heads(stream, {kv.column_range(mla_.kv_lora_rank, mla_.qk_rope_head_dim), 0,
                               k.column_range(nope, k.columns - nope), head_dim_, num_heads_,
                               mla_.qk_rope_head_dim});
  kernels::SelfAttentionParams params;
  params.q = q;
  params.k = k;
  params.v = up.column_range(nope, up.columns - nope);
  params.v_step = head_columns;
  params.num_heads = num_heads_;
  params.k_dim = head_dim_;
  params.v_dim = mla_.v_head_dim;
  params.sequences = pass.sequences;
  params.tables = pass.attention_tables;
  params.scale = scale_;
  params.out = out;
  kernels::self_attention(stream, params);
}

Status MlaAttention::forward(const ForwardPass& pass, ConstMatrixView x,
                             const kernels::KvCacheView& cache, MatrixView y) const {
  const Arena::Scope scope(*pass.arena);
  const int count = pass.own_rows();
  const Rows rows = {pass.matrix(count, latent_columns()),
                     pass.matrix(count, int64_t{num_heads_} * head_dim_),
                     pass.matrix(count, k_dim())};
  project(pass, x, rows);
  const MatrixView out = pass.matrix(count, int64_t{num_heads_} * mla_.v_head_dim);
  // Only where no sequence has anything in the cache.
  if (kv_b_proj_ != nullptr && pass.cp == nullptr && pass.attention_tables != nullptr &&
      pass.attention_tables->self() != nullptr) {
    attend_rows(pass, cache, rows, out);
  } else {
    RETURN_IF_ERROR(attend_latents(pass, cache, rows, out));
  }
  kernels::linear(*pass.stream, out, *o_proj_, y);
  if (o_bias_ != nullptr) kernels::add_bias(*pass.stream, o_bias_->data(), y);
  return Status::ok();
}

}  // namespace

std::unique_ptr<Attention> make_mla_attention(const AttentionOptions& options, WeightStore& store) {
  return std::make_unique<MlaAttention>(options, store);
}

}  // namespace wideep::models
