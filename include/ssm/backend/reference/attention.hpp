// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "ssm/op/attention.hpp"

namespace ssm::reference {

/// Attention, one query of one head at a time, in double precision; and Rotary.
struct Attention {
  template <class Ctx, Real T>
  static void attention(Ctx& ctx, const ssm::Attention<T, typename Ctx::Space>& a) {
    auto frame = ctx.workspace().frame();
    const auto weight = frame.template tensor<double>(a.k.extent(1));
    for_each_query(a, [&](const Query& query) {
      double largest = -std::numeric_limits<double>::infinity();
      for (Index s = query.begin; s < query.end; ++s) {
        weight(s) = a.scale * dot(a.q, query.b, query.t, a.k, query.row, s, query.h);
        largest = std::max(largest, weight(s));
      }
      double sum = 0;
      for (Index s = query.begin; s < query.end; ++s) {
        weight(s) = std::exp(weight(s) - largest);
        sum += weight(s);
      }
      for (Index c = 0; c < a.q.extent(3); ++c) {
        double y = 0;
        for (Index s = query.begin; s < query.end; ++s)
          y += weight(s) / sum * a.v(query.row, s, query.h, c);
        a.y(query.b, query.t, query.h, c) = static_cast<T>(y);
      }
      if (a.log_sum) a.log_sum(query.b, query.t, query.h) = static_cast<T>(largest + std::log(sum));
    });
  }

  /// With p the attention of query t to key s:  dv_s += p·dy_t,  dscore = p·(dy_t·v_s − dy_t·y_t),
  /// dq_t += scale·dscore·k_s,  dk_s += scale·dscore·q_t.
  template <class Ctx, Real T>
  static void attention_backward(Ctx& ctx,
                                 const ssm::AttentionBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    auto frame = ctx.workspace().frame();
    const auto dk = frame.template tensor<double>(a.k.extents());
    const auto dv = frame.template tensor<double>(a.k.extents());
    const auto dq = frame.template tensor<double>(a.q.extents());
    for (const auto& sum : {dk.flatten(), dv.flatten(), dq.flatten()})
      for (Index i = 0; i < sum.extent(0); ++i) sum(i) = 0;
    for_each_query(a, [&](const Query& query) {
      const auto [b, t, h, row, begin, end] = query;
      const double aligned = dot(g.dy, b, t, g.y, b, t, h);
      for (Index s = begin; s < end; ++s) {
        const double p = std::exp(a.scale * dot(a.q, b, t, a.k, row, s, h) - g.log_sum(b, t, h));
        const double dscore = a.scale * p * (dot(g.dy, b, t, a.v, row, s, h) - aligned);
        for (Index c = 0; c < a.q.extent(3); ++c) {
          dv(row, s, h, c) += p * g.dy(b, t, h, c);
          dk(row, s, h, c) += dscore * a.q(b, t, h, c);
          dq(b, t, h, c) += dscore * a.k(row, s, h, c);
        }
      }
    });
    copy(dk, g.dk);
    copy(dv, g.dv);
    copy(dq, g.dq);
  }

  template <class Ctx, Real T>
  static void rotary(Ctx&, const ssm::Rotary<T, typename Ctx::Space>& a) {
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      const Index first = first_position(a, s);
      for (Index t = s.begin; t < s.end; ++t)
        for (Index h = 0; h < a.x.extent(2); ++h) rotate(a, first + t - s.begin, s.batch, t, h);
    });
  }

 private:
  /// One row of scores: query (b, t, h) looks at the keys begin … end−1 of a row of k.
  struct Query {
    Index b;
    Index t;
    Index h;
    Index row;
    Index begin;
    Index end;
  };

  template <class T, class Space, class F>
  static void for_each_query(const ssm::Attention<T, Space>& a, F&& visit) {
    for_each_sequence(a.q.extent(0), a.q.extent(1), a.segments, [&](Sequence s) {
      const AttentionKeys keys = keys_of(a, s);
      for (Index t = s.begin; t < s.end; ++t)
        for (Index h = 0; h < a.q.extent(2); ++h)
          visit(Query{.b = s.batch,
                      .t = t,
                      .h = h,
                      .row = keys.batch,
                      .begin = keys.begin,
                      .end = keys.begin + keys.cached + t - s.begin + 1});
    });
  }

  template <class V, class W>
  static double dot(const V& left, Index b, Index t, const W& right, Index row, Index s, Index h) {
    double sum = 0;
    for (Index c = 0; c < left.extent(3); ++c)
      sum += double{left(b, t, h, c)} * right(row, s, h, c);
    return sum;
  }

  template <class V, class W>
  static void copy(const V& from, const W& to) {
    for (Index b = 0; b < from.extent(0); ++b)
      for (Index t = 0; t < from.extent(1); ++t)
        for (Index h = 0; h < from.extent(2); ++h)
          for (Index c = 0; c < from.extent(3); ++c)
            to(b, t, h, c) = static_cast<typename W::Value>(from(b, t, h, c));
  }

  template <class T, class Space>
  static void rotate(const ssm::Rotary<T, Space>& a, Index position, Index b, Index t, Index h) {
    const Index half = a.dimension / 2;
    for (Index j = 0; j < half; ++j) {
      const double frequency =
          std::pow(a.base, -2.0 * static_cast<double>(j) / static_cast<double>(a.dimension));
      const double angle = static_cast<double>(a.direction * position) * frequency;
      const double first = a.x(b, t, h, j);
      const double second = a.x(b, t, h, j + half);
      a.y(b, t, h, j) = static_cast<T>(first * std::cos(angle) - second * std::sin(angle));
      a.y(b, t, h, j + half) = static_cast<T>(second * std::cos(angle) + first * std::sin(angle));
    }
    for (Index c = a.dimension; c < a.x.extent(3); ++c) a.y(b, t, h, c) = a.x(b, t, h, c);
  }
};

}  // namespace ssm::reference
