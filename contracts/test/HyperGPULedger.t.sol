// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HyperGPULedger} from "../src/HyperGPULedger.sol";
import {Coordinated, Refusing} from "./Coordinated.sol";
import {Trees, vm} from "./Vm.sol";

contract HyperGPULedgerTest is Coordinated {
    using Trees for bytes32;

    function _commit(uint64 round, bytes32 rewards, uint128 owed) private {
        vm.prank(COORDINATOR);
        _ledger.commitRound(_id, round, bytes32(uint256(round)), bytes32("model"), rewards, owed);
    }

    // sessions

    function test_a_session_opens_with_its_own_id_as_head_and_round_one_due() public view {
        HyperGPULedger.SessionState memory s = _ledger.session(_id);
        require(s.head == _id && s.next == 1 && s.pool == 10 ether && s.coordinator == COORDINATOR);
        require(_id == keccak256(abi.encode(block.chainid, address(_ledger), COORDINATOR, SALT)));
    }

    function test_a_session_cannot_be_opened_twice() public {
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerSessionExists.selector, _id));
        vm.prank(COORDINATOR);
        _ledger.open(SALT);
    }

    function test_another_account_with_the_same_salt_gets_another_session(address other) public {
        vm.assume(other != COORDINATOR);
        vm.prank(other);
        require(_ledger.open(SALT) != _id);
    }

    function test_an_unknown_session_takes_no_funds_claims_or_commits() public {
        bytes32 unknown = bytes32("unknown");
        bytes memory reason = abi.encodeWithSelector(HyperGPULedger.LedgerUnknownSession.selector, unknown);
        vm.expectRevert(reason);
        _ledger.fund{value: 0}(unknown);
        vm.expectRevert(reason);
        _ledger.fundTo(unknown, 1);
        vm.expectRevert(reason);
        _ledger.claim(unknown, ALICE, 0, new HyperGPULedger.Commitment[](0), new HyperGPULedger.Grant[](0));
        vm.expectRevert(reason);
        _ledger.commitRound(unknown, 1, 0, 0, 0, 0);
        vm.expectRevert(reason);
        _ledger.acceptCoordinator(unknown);
    }

    // commits

    function test_a_commit_chains_the_head() public {
        _commit(1, bytes32("rewards"), 5);
        bytes32 head = _id.head(1, bytes32(uint256(1)), bytes32("model"), bytes32("rewards"), 5);
        require(_ledger.session(_id).head == head && _ledger.session(_id).next == 2);
    }

    function testFuzz_only_the_coordinator_commits(address sender) public {
        vm.assume(sender != COORDINATOR);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerNotCoordinator.selector, sender, COORDINATOR));
        vm.prank(sender);
        _ledger.commitRound(_id, 1, 0, 0, 0, 0);
    }

    function testFuzz_only_the_next_round_is_committed(uint64 round) public {
        vm.assume(round != 1);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerWrongRound.selector, round, 1));
        _commit(round, 0, 0);
    }

    function test_a_round_is_committed_once() public {
        _commit(1, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerWrongRound.selector, 1, 2));
        _commit(1, 0, 0);
    }

    function testFuzz_owed_never_exceeds_the_pool(uint128 owed) public {
        vm.assume(owed > 10 ether);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerPoolTooSmall.selector, owed, 10 ether));
        _commit(1, 0, owed);
    }

    function test_owed_never_decreases() public {
        _commit(1, 0, 5);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerOwedDecreased.selector, 4, 5));
        _commit(2, 0, 4);
    }

    // funding, refund, hand-over

    function test_anyone_may_fund_but_not_with_nothing() public {
        vm.deal(MALLORY, 1 ether);
        vm.prank(MALLORY);
        _ledger.fund{value: 1 ether}(_id);
        require(_ledger.session(_id).pool == 11 ether);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerZeroAmount.selector));
        _ledger.fund(_id);
    }

    function testFuzz_a_top_up_pays_what_is_missing_and_never_twice(uint64 more, uint64 excess) public {
        uint128 pool = 10 ether + 1 + uint128(more);
        vm.deal(MALLORY, type(uint128).max);
        vm.prank(MALLORY);
        _ledger.fundTo{value: 1 + uint256(more) + excess}(_id, pool);
        require(_ledger.session(_id).pool == pool && address(_ledger).balance == pool);
        require(MALLORY.balance == type(uint128).max - 1 - uint256(more));
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerPoolFull.selector, pool, pool));
        vm.prank(MALLORY);
        _ledger.fundTo{value: 1 + uint256(more) + excess}(_id, pool);
    }

    function test_a_top_up_with_too_little_is_refused() public {
        vm.deal(MALLORY, 1 ether);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerTooLittle.selector, 1, 2));
        vm.prank(MALLORY);
        _ledger.fundTo{value: 1}(_id, 10 ether + 2);
    }

    function test_change_of_a_top_up_that_its_sender_refuses_undoes_it() public {
        Refusing sender = new Refusing();
        vm.deal(address(sender), 2 ether);
        vm.expectRevert(
            abi.encodeWithSelector(HyperGPULedger.LedgerTransferFailed.selector, address(sender), 1 ether)
        );
        vm.prank(address(sender));
        _ledger.fundTo{value: 2 ether}(_id, 11 ether);
        require(_ledger.session(_id).pool == 10 ether && address(_ledger).balance == 10 ether);
    }

    function test_a_closed_session_takes_no_commits_no_funds_and_no_second_refund() public {
        _commit(1, 0, 5);
        vm.warp(block.timestamp + _ledger.REFUND_DELAY());
        vm.prank(COORDINATOR);
        _ledger.refund(_id);
        bytes memory closed =
            abi.encodeWithSelector(HyperGPULedger.LedgerSessionNotOpen.selector, _id, HyperGPULedger.Status.Closed);
        vm.expectRevert(closed);
        vm.prank(COORDINATOR);
        _ledger.commitRound(_id, 2, 0, 0, 0, 5);
        vm.expectRevert(closed);
        _ledger.fund{value: 0}(_id);
        vm.expectRevert(closed);
        _ledger.fundTo(_id, 20 ether);
        vm.expectRevert(closed);
        vm.prank(COORDINATOR);
        _ledger.setPaused(_id, false);
        vm.expectRevert(closed);
        vm.prank(COORDINATOR);
        _ledger.refund(_id);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerSessionExists.selector, _id));
        vm.prank(COORDINATOR);
        _ledger.open(SALT);
    }

    function testFuzz_only_the_coordinator_pauses_refunds_and_hands_over(address sender) public {
        vm.assume(sender != COORDINATOR);
        bytes memory reason = abi.encodeWithSelector(HyperGPULedger.LedgerNotCoordinator.selector, sender, COORDINATOR);
        vm.expectRevert(reason);
        vm.prank(sender);
        _ledger.setPaused(_id, true);
        vm.expectRevert(reason);
        vm.prank(sender);
        _ledger.refund(_id);
        vm.expectRevert(reason);
        vm.prank(sender);
        _ledger.proposeCoordinator(_id, sender);
    }

    function testFuzz_a_hand_over_takes_both_sides(address other) public {
        vm.assume(other != BOB && other != COORDINATOR);
        vm.prank(COORDINATOR);
        _ledger.proposeCoordinator(_id, BOB);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerNotPendingCoordinator.selector, other, BOB));
        vm.prank(other);
        _ledger.acceptCoordinator(_id);
        _commit(1, 0, 0);
        vm.prank(BOB);
        _ledger.acceptCoordinator(_id);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerNotCoordinator.selector, COORDINATOR, BOB));
        _commit(2, 0, 0);
        vm.prank(BOB);
        _ledger.commitRound(_id, 2, 0, 0, 0, 0);
        require(_ledger.session(_id).pendingCoordinator == address(0));
    }

    // history

    function testFuzz_a_contribution_of_any_round_is_proven_and_an_altered_one_is_not(
        HyperGPULedger.Contribution memory c,
        bytes32 sibling,
        uint8 field
    ) public {
        c.session = _id;
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(c))));
        HyperGPULedger.Commitment[] memory tail = new HyperGPULedger.Commitment[](2);
        tail[0] = HyperGPULedger.Commitment(2, Trees.parent(leaf, sibling), bytes32("m2"), 0, 0);
        tail[1] = HyperGPULedger.Commitment(3, bytes32("r3"), bytes32("m3"), 0, 0);
        _commit(1, 0, 0);
        bytes32 before = _ledger.session(_id).head;
        for (uint256 i = 0; i < 2; ++i) {
            vm.prank(COORDINATOR);
            _ledger.commitRound(_id, tail[i].round, tail[i].root, tail[i].model, 0, 0);
        }
        require(_ledger.verifyContribution(c, Trees.proof(sibling), before, tail));
        require(!_ledger.verifyContribution(c, Trees.proof(~sibling), before, tail));
        require(!_ledger.verifyContribution(c, Trees.proof(sibling), ~before, tail));
        require(!_ledger.verifyContribution(c, Trees.proof(sibling), before, new HyperGPULedger.Commitment[](0)));
        unchecked {
            if (field % 4 == 0) c.score += 1;
            else if (field % 4 == 1) c.weight += 1;
            else if (field % 4 == 2) c.reward += 1;
            else c.node = address(uint160(c.node) + 1);
        }
        require(!_ledger.verifyContribution(c, Trees.proof(sibling), before, tail));
    }
}
