// Attention kernels of FlashInfer for Hopper, all in kBF16. Only where its headers are in the
// build; there is one source file for each, since each is a long compilation.
#pragma once

#include "base/stream.h"
#include "kernels/attention.h"
#include "kernels/attention_schedule.h"
#include "kernels/attention_tables.h"
#include "kernels/self_attention.h"

namespace wideep::kernels::adapters {

#ifdef WIDEEP_FLASHINFER
inline constexpr bool kHasFlashInfer = true;
#else
inline constexpr bool kHasFlashInfer = false;
#endif

// The shapes that there are kernels for.
inline constexpr int kLatentValueDim = 512;
inline constexpr int kLatentRopeDim = 64;
inline constexpr int kLatentKeyDim = kLatentValueDim + kLatentRopeDim;
inline constexpr int kGroupedHeadDim = 128;
inline constexpr int kSelfKeyDim = 192;
inline constexpr int kSelfValueDim = 128;

// Whether a call is one of these kernels': everything kBF16, rows aligned to 16 bytes. Neither
// chunks nor context parallelism.
bool takes_latent(const AttentionParams& params);
bool takes_grouped(const AttentionParams& params);

// Prefill and decode.
void latent_attention(Stream& stream, const AttentionParams& params);
void grouped_attention(Stream& stream, const AttentionParams& params);
// The part of grouped_attention() that is in tables->prompts().
void prompt_attention(Stream& stream, const AttentionParams& params);

void self_attention(Stream& stream, const SelfAttentionParams& params);

}  // namespace wideep::kernels::adapters
