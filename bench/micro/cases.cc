#include "bench/micro/cases.h"

#include <algorithm>
#include <map>

#include "bench/micro/attend_cases.h"
#include "bench/micro/digest_case.h"
#include "bench/micro/neighbour.h"
#include "bench/micro/page_cases.h"

namespace quire::micro {
namespace {

// The scalar table is there to be read: it gets a thirty-second of the tokens, and few rounds.
constexpr size_t kScalarPart = 32;
constexpr uint32_t kScalarRounds = 3;
constexpr uint32_t kNeighbourThreads = 2;

// What cases share: the pages of the last case, and threads.
class Shared {
 public:
  explicit Shared(const Options& options) : options_(options) {}

  SharedHeads heads(CodecPair codecs, KeySpace space, size_t tokens) {
    const PageKind kind{codecs.key, codecs.value, space, 0, options_.kv_heads, options_.shape};
    if (heads_ == nullptr || !(heads_->kind == kind) || heads_->pages.size() * kind.shape.tokens != tokens) {
      heads_.reset();  // first, so that both need not be in memory
      heads_ = std::make_shared<const FoldedHeads>(make_folded_heads(best_kernels(), kind, tokens, 1));
    }
    return heads_;
  }
  Team& team(uint32_t threads) {
    auto& team = teams_[threads];
    if (team == nullptr) team = std::make_unique<Team>(threads);
    return *team;
  }

 private:
  Options options_;
  SharedHeads heads_;
  std::map<uint32_t, std::unique_ptr<Team>> teams_;
};

using MakeTimed = std::function<TimedCase(const SharedHeads&, const Kernels&, uint32_t threads)>;

class Maker {
 public:
  explicit Maker(const Options& options) : options_(options), shared_(std::make_shared<Shared>(options)) {}

  std::vector<NamedCase> make() {
    for (const CodecPair codecs : options_.codecs) {
      if (options_.wants("attend")) attend(codecs, KeySpace::kPostRope);
      if (options_.wants("attend") && reads_pre_rope(codecs)) attend(codecs, KeySpace::kPreRope);
      if (options_.wants("digest")) digest(codecs);
      if (options_.wants("checksum")) checksum(codecs);
      if (options_.wants("neighbour")) neighbour(codecs);
      if (options_.wants("prefill")) prefill(codecs);
      if (options_.wants("encode")) pages("encode", codecs, &encode_case);
      if (options_.wants("decode-page")) pages("decode-page", codecs, &decode_page_case);
    }
    return std::move(cases_);
  }

 private:
  // Keys cached unrotated are measured at 4 bits.
  static bool reads_pre_rope(CodecPair codecs) {
    return codecs.key == codecs.value && find_codec(codecs.key)->bits == 4;
  }
  static std::string name_of(CodecPair codecs) {
    return std::string(find_codec(codecs.key)->name) + "/" + std::string(find_codec(codecs.value)->name);
  }
  size_t part(const Kernels& kernels, size_t tokens) const {
    if (kernels.isa != Isa::kScalar) return tokens;
    const size_t page = options_.shape.tokens;
    return std::max(tokens / kScalarPart / page * page, page);
  }

  void add(const std::string& name, CodecPair codecs, KeySpace space, size_t tokens, const Kernels& kernels,
           const MakeTimed& make) {
    const uint32_t rounds =
        kernels.isa == Isa::kScalar ? std::min(kScalarRounds, options_.rounds) : options_.rounds;
    for (const uint32_t threads : options_.threads) {
      const auto measurement = [shared = shared_, codecs, space, tokens, &kernels, make,
                                threads]() -> std::unique_ptr<Measurement> {
        return std::make_unique<TimedMeasurement>(
            make(shared->heads(codecs, space, tokens), kernels, threads), shared->team(threads));
      };
      cases_.push_back({name + "/threads:" + std::to_string(threads), rounds, measurement});
    }
  }

  void attend(CodecPair codecs, KeySpace space) {
    const std::string what = space == KeySpace::kPreRope ? "/pre_rope" : "";
    for (const size_t tokens : options_.tokens) {
      for (const Kernels* kernels : options_.tables) {
        for (const uint32_t group : options_.groups) {
          add("attend/" + name_of(codecs) + what + "/" + isa_name(kernels->isa) +
                  "/n_kv:" + std::to_string(tokens) + "/G:" + std::to_string(group),
              codecs, space, part(*kernels, tokens), *kernels,
              [group](const SharedHeads& heads, const Kernels& table, uint32_t threads) {
                return attend_case(heads, table, group, threads);
              });
        }
      }
    }
  }

  void digest(CodecPair codecs) {
    for (const Kernels* kernels : options_.tables) {
      for (const uint32_t group : options_.groups) {
        add("digest/" + name_of(codecs) + "/" + isa_name(kernels->isa) + "/G:" + std::to_string(group),
            codecs, KeySpace::kPostRope, part(*kernels, options_.tokens.back()), *kernels,
            [group](const SharedHeads& heads, const Kernels& table, uint32_t threads) {
              return digest_case(heads, table, group, threads);
            });
      }
    }
  }

  void prefill(CodecPair codecs) {
    for (const Kernels* kernels : options_.tables) {
      for (const uint32_t n_q : options_.queries) {
        for (const uint32_t group : options_.groups) {
          add("prefill/" + name_of(codecs) + "/" + isa_name(kernels->isa) + "/n_q:" + std::to_string(n_q) +
                  "/G:" + std::to_string(group),
              codecs, KeySpace::kPostRope, part(*kernels, options_.prefill_tokens), *kernels,
              [group, n_q](const SharedHeads& heads, const Kernels& table, uint32_t threads) {
                return prefill_case(heads, table, group, n_q, threads);
              });
        }
      }
    }
  }

  void pages(const std::string& name, CodecPair codecs,
             TimedCase (*timed)(const SharedHeads&, const Kernels&, uint32_t)) {
    for (const Kernels* kernels : options_.tables) {
      add(name + "/" + name_of(codecs) + "/" + isa_name(kernels->isa), codecs, KeySpace::kPostRope,
          part(*kernels, options_.page_tokens_in_memory), *kernels, timed);
    }
  }

  void checksum(CodecPair codecs) {
    add("checksum/" + name_of(codecs), codecs, KeySpace::kPostRope, options_.tokens.back(),
        *options_.tables.front(), [](const SharedHeads& heads, const Kernels& /*kernels*/, uint32_t threads) {
          return checksum_case(heads, threads);
        });
  }

  void neighbour(CodecPair codecs) {
    const uint32_t group = options_.groups[options_.groups.size() / 2];
    const Kernels& kernels = *options_.tables.front();
    cases_.push_back(
        {"neighbour/" + name_of(codecs) + "/" + isa_name(kernels.isa), options_.rounds,
         [shared = shared_, codecs, &kernels, group, tokens = part(kernels, options_.tokens.back())] {
           return std::make_unique<NeighbourMeasurement>(shared->heads(codecs, KeySpace::kPostRope, tokens),
                                                         kernels, group, kNeighbourThreads);
         }});
  }

  const Options& options_;
  std::shared_ptr<Shared> shared_;
  std::vector<NamedCase> cases_;
};

}  // namespace

std::vector<NamedCase> make_cases(const Options& options) { return Maker(options).make(); }

}  // namespace quire::micro
